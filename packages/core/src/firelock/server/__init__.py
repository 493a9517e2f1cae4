"""Running jobs: a supervisor that runs none, worker processes that do.

Follow a job: `dispatcher` claims it, `workers` give it a thread, a coroutine or a process, `attempt` runs it
and says what becomes of it, `dispatcher` settles that in its next exchange; `parked_ends` keeps those ends
whose rows other transactions have locked; `batch_looks` says when batches are looked at whose members have
ended. `related_jobs` checks a job's batch and its inputs before it starts, `open_resources` opens what it
needs, `memo_commit` stores what its steps remember. `upkeep` does what nobody waits for, `retention` removes
expired jobs, and `recurring` creates what recurs. `worker_process` is all of these; `supervisor` keeps the
worker processes, `session_renewal` their sessions, and `embedded` is both in one process. `queue_choice` is
which queues a server serves. Below them: `loading` finds the app, `job_process` is a job's own process,
`process_groups` ends the programs that jobs have started, `process_state` sets a process up, `shared_memory`
is what supervisor and worker process tell each other by, `failure` makes text of an exception, `outage` says
how long the storage has been away. To whoever watches: `logs` are the lines of a server and its jobs,
`probes` answers, `job_counters` counts, `systemd` tells a service manager.
"""
