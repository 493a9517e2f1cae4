"""Running jobs: a supervisor that runs none, children that do.

Follow a job: `dispatcher` claims it, `executors` give it a thread, a coroutine or a process, `runner` runs it
and says what becomes of it, `dispatcher` settles that in its next exchange. `upkeep` does what nobody waits
for. `supervisor` keeps the children's sessions alive; `inside` is all of it in one process.
"""
