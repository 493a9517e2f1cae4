"""Files of Lua functions that are included in scripts; they are not scripts themselves.

Read `batches` and `jobs` first: the storage of jobs and the changes of their states. Then read `children`,
`suspensions`, `limits`, `unique`, `duplicates` and `record`.
"""
