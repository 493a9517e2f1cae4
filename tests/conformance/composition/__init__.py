"""Models of what jobs will be composed of, explored state by state before any of it was written.

`explorer`, a folder up, explores. `batch_rules` says what a batch does, each rule with a switch, and
`batch_moves` plays it; `batch_variants` are the worlds and the broken forms. `step_moves` plays a job that
waits and remembers, and `call_moves` one that calls another. `schedules` plays what goes wrong in a broken
form on a storage, where it must go well. The tests run them, and so does
`python -m tests.conformance.composition`, with more ill luck at once.
"""
