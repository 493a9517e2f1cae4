"""A Firelock app created by the project."""

from __future__ import annotations

from firelock import Firelock

fire = Firelock("memory://")
