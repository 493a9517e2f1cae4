"""An app that the project makes itself."""

from __future__ import annotations

from firelock import Firelock

fire = Firelock("memory://")
