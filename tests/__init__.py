"""Firelock's own tests, by what they need: nothing (unit), a storage, real processes, the sources."""
