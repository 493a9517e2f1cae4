"""Other job systems, which run in separate virtual environments and are not dependencies of Firelock."""

from __future__ import annotations
