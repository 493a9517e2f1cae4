"""The objects behind `fire.<name>`, which answer queries and change many jobs.

Almost every module implements one attribute of the app; read `jobs` first. `queues`, `limits`, `batches`,
`servers`, `recurring`, `audit` and `catalogue` show and change other stored objects. `operations` changes all
jobs that match a filter; such a change can be resumed. `findings` lists problems, including those of batches
that `recount` finds. `doctor` reports the findings even if the storage is unreachable. Nothing here runs
jobs.
"""
