"""Batches of jobs, and jobs that wait.

`batch` is the handle of a batch, `batch_builder` the block in which its members are created, and `nesting`
reads a batch with the batches within it. `steps` are the parts of a job that are done only once in all its
runs, and `fake_steps` replaces them in tests without a server. `signals` are sent to a waiting job, and
`approval` creates links that send them. `streams` are the output of a job that is still running.
"""
