"""Firelock's own tests: of each package, each storage, faults, the whole system and the sources."""
