"""Records, and the rules that do not need a storage.

Read `state` and `job` first. Then read `lifecycle`, which computes the next state of a job from the job and
an event. `batch`, `dependencies`, `limit`, `memo` and `meta` define optional parts of a job. `storage`,
`answers`, `session`, `record` and `report` define the parameters and results of a storage's verbs. The other
modules are tools: `clock`, `ids`, `text`, `metrics` (samples and their text format), `stored_json` and `aio`.
"""
