"""Numbers about jobs, kept so that pages stay quick whatever the number of jobs.

`rollups` adds up what ended; `history` answers by hour, day, week and month out of it; `live` tells open
pages what moves; `causes` remembers causes of failures; `watch` shares one look among all who ask at once.
"""
