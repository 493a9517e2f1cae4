"""Everything behind `fire.<name>`: what people and programs look at, and do to many jobs at once.

Each file but `pages` is one door of the app; read `jobs` first. `queues`, `limits`, `servers`, `recurring`,
`audit` and `catalogue` show and change what is stored beside jobs; `bulk` acts on all jobs that match,
resumably; `doctor` says what is wrong. `pages` has what their lists share. Nothing here runs jobs.
"""
