"""Persistent background jobs for Python."""

from firelock.hookspecs import hookimpl

__all__ = ["hookimpl"]
