"""Running jobs: the supervisor, which does not run jobs, and the worker processes, which do.

The path of a job: `dispatcher` claims it. `workers` run it in a thread, a coroutine or a job process.
`run` runs its function and decides on its end, which `dispatcher` settles in its next exchange.
`parked_ends` stores the ends whose rows other transactions have locked. `batch_releases` decides when batches
whose members have ended are released. Before a job starts, `related_jobs` checks its batch and its inputs.
`open_resources` opens the resources that it needs, and `memo_commit` stores the results of its steps.

Processes: `upkeep` runs the background routines, of which `retention` removes expired jobs and `recurring`
creates the jobs of recurring definitions. `worker_process` combines all of these. `supervisor` starts and
replaces the worker processes, `session_renewal` renews their sessions, and `embedded` does both in one
process. `queue_choice` contains the queues that a server serves.

Parts that these use: `loading` finds the app. `job_process` runs one job in a separate process, and
`process_groups` ends the programs that jobs have started. `process_state` prepares a process. Supervisor and
worker process communicate through `shared_memory`. `failure` converts an exception to text, and `outage`
measures how long the storage has been unreachable.

For monitoring: `logs` formats the lines of a server and its jobs, `probes` serves the probes, `job_counters`
counts, and `systemd` notifies a service manager.
"""
