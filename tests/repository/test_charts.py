"""The charts in the documentation show the stored figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import charts

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "docs" / "charts"
STORED = sorted((ROOT / "benchmarks" / "stored").glob("*.json"))


@pytest.mark.parametrize("run", STORED, ids=lambda run: run.stem)
def test_charts_show_the_stored_figures(run, tmp_path):
    """After a change, run `python -m benchmarks.charts RUN.json docs/charts` to draw the charts again."""
    drawn = charts.draw(json.loads(run.read_text(encoding="utf-8")), run.stem, tmp_path)

    assert drawn != []
    for picture in drawn:
        assert picture.read_text(encoding="utf-8") == (CHARTS / picture.name).read_text(encoding="utf-8")


def test_every_chart_belongs_to_a_stored_run():
    assert {picture.name.partition("-")[0] for picture in CHARTS.iterdir()} == {run.stem for run in STORED}


def test_best_contender_is_first():
    """More jobs per second are better, and more time per job is worse.

    Contenders without the compared figure are omitted.
    """
    summary = {
        "firelock": {"jobs_per_s": {"median": 2}, "cpu_us_per_job": {"median": 9}},
        "floor": {"jobs_per_s": {"median": 3}, "cpu_us_per_job": {"median": 1}},
        "other": {},
    }
    run = {"machine": {}, "scenarios": {"process": {"summary": summary}}}
    rate, cpu, *_ = charts.CHARTS

    assert list(charts.medians(run, rate)) == ["floor", "firelock"]
    assert list(charts.medians(run, cpu)) == ["floor", "firelock"]
