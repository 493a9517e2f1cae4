"""Deliberate faults: real processes, real signals, and a ledger of events that is independent of Firelock.

`python -m tests.faults` lists the scenarios. `python -m tests.faults kill-servers --storage URL` runs one and
prints its figures. The short forms run with the tests.
"""
