"""Numbers about jobs, kept so that pages stay quick whatever the number of jobs.

Read `rollups` first, which adds up what ended; `history` answers by hour, day, week and month out of it;
`live` tells open pages what moves; `causes` remembers causes of failures; `watch` shares one look, of which
`gauges` makes metrics and `scale` what an autoscaler asks for. `job_search` finds jobs, `retries` counts
those that wait for a retry, `waiting` explains why a job is not running, and `operations` act on many jobs
in the background.
"""
