"""Redis and Valkey storage for Firelock: one server, a primary with Sentinels, or a cluster.

To read: `layout` (how a job stands there), `database` (a prefix in partitions, and scripts that run in them),
`insert`, `changes` and `storage` (what runs for every job) beside their Lua in `scripts/`; then any other
group of verbs: `sessions`, `upkeep`, `find`, `records`, `locks`, `logs`, `keys` (of limits, and unique ones),
`memos` (with batches and streams). Below them lie `url`, `connections`, `errors`, `partitions`; `notify`
hears of work, `health` tells of the server, `plugin` offers all of it.
"""
