"""Firelock on MariaDB."""

from __future__ import annotations

from benchmarks import mariadb_server, ours_served
from benchmarks.entry import run

SCENARIOS = ours_served.scenarios(mariadb_server.running)

if __name__ == "__main__":
    run(SCENARIOS)
