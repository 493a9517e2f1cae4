"""The application that servers run."""

from __future__ import annotations

from benchmarks.limits import tasks
from firelock import Firelock

fire = Firelock()
tasks.declare(fire)
