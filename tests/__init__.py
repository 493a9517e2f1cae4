"""Firelock's own tests: for each package, each storage, faults, the whole system and the source code."""
