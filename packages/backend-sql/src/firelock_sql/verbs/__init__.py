"""The transactions of each verb, for every dialect.

The life cycle of a job: `insert`, `claim`, `settle`, and `children` for the jobs that wait for it to end.
Jobs with limits and unique keys: `limits`, `unique`. Batches and steps: `batches`, `batch_change`, `memos`,
`suspensions`, `streams`. Other verbs: `moves`, `find`, `sessions`, `records`, `locks`, `logs` and `upkeep`.
"""
