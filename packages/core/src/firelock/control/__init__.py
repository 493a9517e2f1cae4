"""Everything behind `fire.<name>`: what people and programs look at, and do to many jobs at once.

Nearly each file is one door of the app; read `jobs` first. `queues`, `limits`, `batches`, `servers`,
`recurring`, `audit` and `catalogue` show and change what is stored beside jobs; `operations` acts on all
jobs that match, resumably; `doctor` says what is wrong, and asks `recount` about batches. Nothing here runs
jobs.
"""
