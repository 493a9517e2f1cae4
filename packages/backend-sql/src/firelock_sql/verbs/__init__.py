"""What each verb does within its transaction, in every dialect.

One job's way: `insert`, `claim`, `settle`, and `children`, which wait for its end. Jobs with limits and
unique keys: `limits`, `unique`. Batches and steps: `batches`, `batch_change`, `memos`, `suspensions`,
`streams`. Everything else: `moves`, `find`, `sessions`, `records`, `locks`, `logs` and `upkeep`.
"""
