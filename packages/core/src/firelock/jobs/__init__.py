"""Creating jobs, and the handle of one.

Read `creation` first: it turns a call into a stored job. `job` is the handle that the caller gets;
`dependencies` are what a call says about other jobs. `storage_access` is what all calls of an app share:
`group_commit` stores together what coroutines enqueue at one moment, `results` waits for results.
`blocked_by` explains why an enqueued job is not running, `unread` names the parts of a job that this release
cannot read, and `pagination` checks pages and cursors.
"""
