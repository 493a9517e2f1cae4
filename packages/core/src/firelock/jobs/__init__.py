"""Create jobs, and the handle of one.

Read `client` first: it turns a call into a stored job, in `enqueue_context` inside the contexts of plugins.
`job` is the handle that the caller gets; `administration` is what its verbs need to change a stored job,
and `results` waits for ends and reads results. `dependencies` are what a call says about other jobs.
`storage_access` is what all calls of an app share; `group_commit` stores together what coroutines enqueue
at one moment. `blocked_by` explains why an enqueued job is not running, `limit_line` who waits for a limit in
which order, `unread` names the parts of a job that this release cannot read, and `pagination` checks pages
and cursors.
"""
