"""A storage in SQL: every verb once, on SQLAlchemy Core; the four that run for every job once a dialect.

Read `storage` first: each verb is one transaction. Then one job's way: `insert`, `claim`, `job_engine`, an
`engine` of `sqlite`, `postgresql` or `mysql`, `settle`, `job_row`, `history`, `continuations`. Below them:
`transaction`, `statements`, `tables`; `open_database`, `server_database`, `pool` and a dialect's `database`;
`notify` and `within`. What surrounds a job: `sessions`, `upkeep`, `counting`, `find`, `records`, `schema`.
"""
