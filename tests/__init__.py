"""Firelock's own tests: of each package, of each storage, of faults, of the whole, of the sources."""
