"""Lua functions that scripts include; none of them is a script by itself.

First `batches` and `jobs`: how a job is stored, and how it moves. Then `children`, `suspensions`, `limits`,
`unique`, `duplicates` and `record`.
"""
