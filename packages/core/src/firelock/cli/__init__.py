"""The command line. One module a command group; nothing heavy is loaded before a command needs it."""

from __future__ import annotations

from firelock.cli.program import main

__all__ = ["main"]
