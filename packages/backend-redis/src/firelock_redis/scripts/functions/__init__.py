"""Lua functions that scripts include; none of these files is a script on its own.

First `batches` and `jobs`: how a job is stored, and how it changes its state. Then `children`, `suspensions`,
`limits`, `unique`, `duplicates` and `record`.
"""
