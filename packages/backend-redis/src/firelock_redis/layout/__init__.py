"""The place of a job in Redis (`partitions`), and the declaration of each format there (`wire`).

The stored formats are in `encoding`, the arguments and replies of scripts in `words`.
"""
