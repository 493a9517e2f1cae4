"""Batches of jobs, and jobs that wait.

`batch` contains the handle of a batch, `batch_builder` the block in which its members are created, and
`nesting` reads a batch and its nested batches. `steps` contains the parts of a job that are done only once,
even if the job runs several times, and `fake_steps` replaces them in tests without a server. `signals`
contains the signals that are sent to a waiting job, and `approval` creates links that send them. `streams`
contains the output of a job that is still running.
"""
