"""The application that servers run."""

from __future__ import annotations

from benchmarks.retention import tasks
from firelock import Firelock

fire = Firelock()
tasks.declare(fire)
