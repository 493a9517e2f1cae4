"""Persistent background jobs for Python."""
