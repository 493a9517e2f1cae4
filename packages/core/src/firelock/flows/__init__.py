"""Jobs that belong together, and jobs that wait.

`batch` is the handle of a batch, `batch_builder` the block in which its members are created, and `nesting`
reads a batch with the batches within it. `steps` are
what a job completes once, over all its runs, and `fake_steps` their substitute without a server. `signals`
are sent to a waiting job, with `approval` by a link; `streams` are the output of a job that still runs.
"""
