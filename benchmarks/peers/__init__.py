"""Other job systems, run in a virtual environment of their own: none is a dependency of Firelock."""

from __future__ import annotations
