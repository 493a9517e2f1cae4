"""The benchmarks run on the current schema, because some of them write rows without Firelock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.baseline import interval, ratio
from benchmarks.scenarios import Figure

ROOT = Path(__file__).parents[2]


@pytest.mark.heavy
def test_database_is_filled_without_firelock():
    scenario = [
        "--scenario",
        "growth",
        "--contender",
        "firelock",
        "--quick",
        "--jobs",
        "500",
        "--repeat",
        "1",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", *scenario], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.heavy
def test_jobs_with_and_without_limits_are_compared():
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
def test_batches_and_steps_are_compared_with_plain_jobs():
    parts = ["trips", "members", "fan-in", "steps"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.composition", *parts, "--quick", "--pairs", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "members compared with plain jobs" in run.stdout


@pytest.mark.heavy
def test_two_checkouts_are_compared():
    options = [
        "--baseline",
        str(ROOT),
        "--quick",
        "--scenario",
        "enqueue_bulk",
        "--seed",
        "7",
        "--pairs",
        "2",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "enqueue_bulk      jobs_per_s" in run.stdout, run.stdout + run.stderr
    assert "pairs  seed 7" in run.stdout
    assert "A run FAILED" not in run.stderr


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([0.96, 0.97, 0.98, 1.0, 0.99, 0.97], "passed"),
        ([1.4, 1.41, 1.42, 1.4], "passed"),
        ([0.90, 0.91, 0.92, 0.93], "FAILED"),
        ([0.5, 0.6, 0.7, 0.9], "FAILED"),
        ([0.8, 0.9, 1.0, 1.1, 1.2], "inconclusive"),
    ],
)
def test_figure_is_judged_by_the_interval_of_its_median(ratios, verdict):
    found = interval(ratios, seed=1)

    assert found.verdict == verdict
    assert found.low <= found.median <= found.high
    assert found == interval(ratios, seed=1)


def test_ratio_of_a_pair_is_above_one_if_the_new_figure_is_better():
    rate, cost = Figure("jobs_per_s", "jobs/s"), Figure("p50_ms", "ms")

    assert ratio(rate, 20, 10) == 2
    assert ratio(cost, 10, 20) == 2
    assert ratio(cost, 0, 0) == 1


@pytest.mark.heavy
def test_retention_is_measured_with_and_without_logs_and_tags():
    parts = ["cost", "unique", "late"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.retention", *parts, "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for what in ("due", "recurring", "sweeps"):
        assert f"{what} with 2,000 expired jobs, 99% of" in run.stdout
