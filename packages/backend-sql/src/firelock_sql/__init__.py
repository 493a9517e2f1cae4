"""A storage in SQL: every verb once, on texts; the four that run for every job once a dialect.

Read `storage` first: each verb is one transaction. Then one job's way: `insert`, `claim`, the `storage` of
`sqlite/`, `postgresql/` or `mysql/`, `settle`, `job_row`. Below them: `transaction`, `database`, `schema` and
`metadata`, `names` and `url`; `server_database`, `pool` and a dialect's `database`; `notify` and `within`;
`plugin`. What surrounds a job: `sessions`, `upkeep`, `counting`, `find`, `logs`, `records`, `locks`. What it
waits for: `limits`, `unique`. What ties jobs together, and what they remember: `batch_row`, how members are
counted, `batch_change`, `batches`; `memo_row`, `memos`, `suspensions`, `streams`.
"""
