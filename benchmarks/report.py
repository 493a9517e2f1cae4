"""The measurements as values, as JSON and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

import attrs

from benchmarks.contenders import FLOOR, OURS
from benchmarks.entry import Figures
from benchmarks.scenarios import Figure, Lead, Scenario

HEADINGS = ("figure", "contender", "unit", "min", "median", "max", "÷ floor", "firelock ÷", "goal", "")


@attrs.frozen
class Measured:
    """One scenario, with a mapping of figures per repetition for each contender, in the order of the runs."""

    scenario: Scenario
    repeats: Mapping[str, Sequence[Figures]]
    failures: Mapping[str, str]
    """The reasons of failed contenders, which have no figures."""

    def values(self, contender: str, figure: str) -> list[float]:
        """Return a figure of all repetitions, or an empty list if a repetition does not have it."""
        repeats = self.repeats.get(contender, ())
        found = [figures[figure] for figures in repeats if figure in figures]
        return found if len(found) == len(repeats) else []

    def ratio(self, above: str, below: str, figure: str) -> float | None:
        """Return the median quotient of the repetitions, whose two runs were successive.

        None if one of the two lacks the figure, or both are the same.
        """
        pairs = list(zip(self.values(above, figure), self.values(below, figure), strict=False))
        if above == below or not pairs or any(divisor == 0 for _, divisor in pairs):
            return None
        return statistics.median(dividend / divisor for dividend, divisor in pairs)


def rows(measured: Measured) -> Iterator[tuple[str, ...]]:
    """Yield a table row for each figure of each contender."""
    for figure in measured.scenario.figures:
        for contender in measured.repeats:
            if values := measured.values(contender, figure.name):
                yield row(measured, figure, contender, values)


def row(measured: Measured, figure: Figure, contender: str, values: Sequence[float]) -> tuple[str, ...]:
    """Return the cells of one figure of one contender."""
    share = measured.ratio(contender, FLOOR, figure.name)
    lead = measured.ratio(OURS, contender, figure.name) if contender != FLOOR else None
    median = statistics.median(values)
    is_ours = contender == OURS
    verdict = figure.is_met(figure=median, share=share) if is_ours else None
    return (
        figure.name,
        contender,
        figure.unit,
        *(text(value) for value in (min(values), median, max(values))),
        "" if share is None else f"{share:.2f}",
        "" if lead is None else f"{lead:.1f}",
        figure.goal if is_ours else "",
        {True: "met", False: "MISSED", None: ""}[verdict],
    )


def text(value: float) -> str:
    """Return a number with about four significant digits."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"


def read_lead(measured: Measured, lead: Lead) -> tuple[str, float] | None:
    """Return the best of a lead's peers, and the ratio of Firelock's figure to its figure.

    None if none of these peers was measured in the same run.
    """
    figure = measured.scenario.figures[0].name
    ratios = {name: measured.ratio(OURS, name, figure) for name in lead.over}
    found = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    return min(found.items(), key=lambda pair: pair[1]) if found else None


def text_of_lead(measured: Measured, lead: Lead) -> str:
    """Return a lead as a line, or an empty string if it was not measured."""
    if (found := read_lead(measured, lead)) is None:
        return ""
    name, ratio = found
    verdict = "met" if ratio >= lead.at_least else "MISSED"
    return f"{OURS} ÷ {lead.title} ({name}): {ratio:.1f}, goal ≥ {lead.at_least:g}: {verdict}"


def table(measured: Measured) -> str:
    """Return one scenario as a table for a terminal."""
    lines = [HEADINGS, *rows(measured)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    text_columns = {0, 1, 2, 8, 9}
    body = [
        "  ".join(
            cell.ljust(width) if column in text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    leads = [text_of_lead(measured, lead) for lead in measured.scenario.leads]
    failed = [f"{contender} FAILED: {why}" for contender, why in measured.failures.items()]
    return "\n".join(
        [f"{measured.scenario.name}: {measured.scenario.title}", *body, *filter(None, leads), *failed, ""]
    )


def record(measured: Measured) -> dict[str, object]:
    """Return one scenario in the form that is written to the results file."""
    summary = {
        contender: {
            figure.name: {
                "min": min(values),
                "median": statistics.median(values),
                "max": max(values),
                "of_floor": measured.ratio(contender, FLOOR, figure.name),
            }
            for figure in measured.scenario.figures
            if (values := measured.values(contender, figure.name))
        }
        for contender in measured.repeats
    }
    leads = [
        {"over": found[0], "ratio": found[1], "goal": lead.at_least}
        for lead in measured.scenario.leads
        if (found := read_lead(measured, lead))
    ]
    return {
        "summary": summary,
        "leads": leads,
        "repeats": dict(measured.repeats),
        "failures": dict(measured.failures),
    }
