"""The benchmarks run on the schema there is: some of them write their rows behind Firelock's back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.heavy
def test_a_database_is_filled_behind_firelock_s_back():
    scenario = [
        "--scenario",
        "growth",
        "--contender",
        "firelock",
        "--quick",
        "--jobs",
        "2000",
        "--repeat",
        "1",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", *scenario], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.heavy
def test_limits_are_measured_beside_jobs_without():
    parts = ["statements", "behind", "bulk", "unique"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.limits", *parts, "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "a unique call, duplicate" in run.stdout


@pytest.mark.heavy
def test_batches_and_steps_are_measured_beside_plain_jobs():
    parts = ["trips", "members", "fan-in", "steps"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.composition", *parts, "--quick", "--pairs", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "members beside plain jobs" in run.stdout
