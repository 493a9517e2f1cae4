"""Statistics about jobs, cached so that pages stay fast for any number of jobs.

Read `rollups` first, which sums up ended attempts. `history` uses its sums for the last hour, day, week and
month. `live` notifies open pages of changes. `causes` stores the causes of failures. `watch` shares one
snapshot of the storage, from which `gauges` derives metrics, and `scale` the numbers for an autoscaler.
`job_search` finds jobs, `retries` counts the jobs that wait for a retry, `waiting` explains why a job is not
running, and `operations` act on many jobs in the background.
"""
