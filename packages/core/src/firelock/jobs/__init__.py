"""The creation of jobs, and the handle of a job.

Read `client` first: it turns a call into a stored job. `enqueue_context` creates jobs inside the contexts of
plugins. `job` is the handle that the caller gets. `administration` supports the methods of the handle that
change a stored job, and `results` waits until jobs have ended and reads their results. `dependencies`
contains the relations of a new job to other jobs. `storage_access` contains the objects that all calls of an
app share. `group_commit` stores in one round trip the jobs that coroutines enqueue at the same time.
`blocked_by` explains why an enqueued job is not running. `limit_line` reads the jobs that wait for a limit,
in their order. `unread` names the parts of a job that this release cannot read, and `pagination` checks pages
and cursors.
"""
