"""Everything behind `fire.<name>`: what people and programs look at, and do to many jobs at once.

Nearly each file is one door of the app; read `jobs` first. `queues`, `limits`, `batches`, `servers`,
`recurring`, `audit` and `catalogue` show and change what is stored beside jobs; `operations` acts on all
jobs that match, resumably; `findings` lists what is wrong, with what `recount` finds about batches, and
`doctor` reports it also of a storage that does not answer. Nothing here runs jobs.
"""
