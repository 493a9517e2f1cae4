"""Models of batches, steps and calls, which were explored state by state before the code was written.

`explorer`, one folder up, explores them. `batch_rules` defines the behaviour of a batch, with a switch for
each rule, and `batch_moves` contains its steps; `batch_variants` contains the scenes and the broken forms.
`step_moves` models a job that waits and stores memos, and `call_moves` models a job that calls another job.
`schedules` plays the counter-examples of the broken forms on a storage, where they must succeed. The tests
run all of these models. `python -m tests.conformance.composition` also runs them, with more failures at a
time.
"""
