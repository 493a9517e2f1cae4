"""Draw charts of a run's figures as SVG, with medians as bars: `python -m benchmarks.charts RUN.json FOLDER`.

RUN.json is a result of a run in benchmarks/results, or stored medians in benchmarks/stored. The charts use
the reader's light or dark color scheme and do not need a script, a font or another file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import attrs

from benchmarks.contenders import FLOOR, OURS

_WIDTH, _ROW, _LABEL, _TOP, _FIGURE = 720, 26, 190, 46, 84
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#14171c}.title{font-weight:600}"
    ".note{fill:#5b6472;font-size:12px}"
    ".bar{fill:#a3acba}.ours{fill:#4338ca}.floor{fill:#d5d9e0}"
    "@media (prefers-color-scheme:dark){text{fill:#e7eaef}.note{fill:#9aa4b2}.bar{fill:#667080}"
    ".ours{fill:#a5b4fc}.floor{fill:#363c46}}"
)


@attrs.frozen
class Chart:
    """One figure of one scenario."""

    scenario: str
    figure: str
    title: str
    is_short_better: bool = False


CHARTS = (
    Chart("process", "jobs_per_s", "Jobs run per second, one process, one core"),
    Chart(
        "process", "cpu_us_per_job", "Processor time per job run, µs, storage included", is_short_better=True
    ),
    Chart("enqueue_one", "jobs_per_s", "Jobs enqueued per second, one by one"),
    Chart("enqueue_bulk", "jobs_per_s", "Jobs enqueued per second, in calls of 500"),
)


def medians(run: Mapping[str, object], chart: Chart) -> dict[str, float]:
    """Return the median of each contender that has the figure, best first."""
    scenarios = run["scenarios"]
    assert isinstance(scenarios, dict)
    summary = scenarios.get(chart.scenario, {}).get("summary", {})
    those = {name: figures[chart.figure] for name, figures in summary.items() if chart.figure in figures}
    found = {name: figure["median"] for name, figure in those.items()}
    return dict(sorted(found.items(), key=lambda one: one[1], reverse=not chart.is_short_better))


def drawn(chart: Chart, figures: Mapping[str, float], note: str) -> str:
    """Return the SVG of a chart, with a bar for each contender, relative to the largest figure."""
    height = _TOP + _ROW * len(figures) + 12
    longest = max(figures.values())
    rows = [_bar(number, *one, longest) for number, one in enumerate(figures.items())]
    description = ", ".join(f"{name} {_text(value)}" for name, value in figures.items())
    better = "shorter is better" if chart.is_short_better else "longer is better"
    return "".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}">',
        f"<title>{escape(chart.title)}: {escape(description)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="0" y="16">{escape(chart.title)}</text>',
        f'<text class="note" x="0" y="34">{escape(note)}; {better}</text>',
        *rows,
        "</svg>\n",
    ])  # fmt: skip


def _bar(number: int, name: str, value: float, longest: float) -> str:
    top = _TOP + number * _ROW
    length = max(2.0, (_WIDTH - _LABEL - _FIGURE) * value / longest)
    style = {OURS: "ours", FLOOR: "floor"}.get(name, "bar")
    weight = ' font-weight="600"' if name == OURS else ""
    return (
        f'<text x="{_LABEL - 8}" y="{top + 16}" text-anchor="end"{weight}>{escape(name)}</text>'
        f'<rect class="{style}" x="{_LABEL}" y="{top + 3}" width="{length:.1f}" height="{_ROW - 8}" rx="3"/>'
        f'<text x="{_LABEL + length + 6:.1f}" y="{top + 16}"{weight}>{_text(value)}</text>'
    )


def _text(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def draw(run: Mapping[str, object], name: str, folder: Path) -> Sequence[Path]:
    """Write all charts for which the run has at least two contenders to the folder; return the files."""
    machine = run["machine"]
    assert isinstance(machine, dict)
    note = str(machine.get("storage", name))
    written = []
    for chart in CHARTS:
        figures = medians(run, chart)
        if len(figures) > 1:
            path = folder / f"{name}-{chart.scenario}-{chart.figure}.svg".replace("_", "-")
            path.write_text(drawn(chart, figures, note), encoding="utf-8")
            written.append(path)
    return written


def main() -> None:
    """Draw the charts of the run on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.charts", description=__doc__)
    parser.add_argument("run", type=Path, help="JSON file of a run")
    parser.add_argument("folder", type=Path, help="folder for the charts")
    options = parser.parse_args()
    for path in draw(json.loads(options.run.read_text(encoding="utf-8")), options.run.stem, options.folder):
        print(path)


if __name__ == "__main__":
    main()
