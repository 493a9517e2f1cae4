"""The server, which consists of a supervisor and worker processes; only the worker processes run jobs.

A job passes through several modules. `dispatcher` claims the job. `workers` runs it in a thread, a coroutine
or a job process. `run` calls its function and decides how the attempt ends, and `dispatcher` settles the job
in its next exchange. `parked_ends` stores the outcomes of jobs whose rows other transactions have locked.
`batch_releases` decides when batches whose members have ended are released. Before a job starts,
`related_jobs` checks its batch and its inputs. `open_resources` opens the resources that it needs, and
`memo_commit` stores the results of its steps.

Several modules manage processes. `upkeep` runs the background routines: for example, `retention` removes
expired jobs, and `recurring` creates the jobs of recurring definitions. `worker_process` combines all of
these modules. `supervisor` starts and replaces the worker processes, `session_renewal` renews their sessions,
and `embedded` does both in one process. `queue_choice` contains the queues that a server serves.

Other modules support these. `loading` finds the app. `job_process` runs one job in a separate process, and
`process_groups` ends the programs that jobs have started. `process_state` prepares a process. The supervisor
and the worker processes communicate through `shared_memory`. `failure` converts an exception to text, and
`outage` measures how long the storage has been unreachable.

The following modules are for monitoring: `logs` formats the log lines of a server and its jobs, `probes`
serves the probes, `job_counters` counts jobs, and `systemd` notifies a service manager.
"""
