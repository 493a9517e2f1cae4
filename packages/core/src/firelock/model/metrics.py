"""Metrics as values, and in the text format that Prometheus reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Self

import attrs

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of `metrics_text`."""

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


@attrs.frozen
class MetricSample:
    """One value of a metric family."""

    suffix: str  # the suffix of the family's name: "" or, for a histogram, "_bucket", "_sum" or "_count"
    labels: tuple[tuple[str, str], ...]
    value: float


@attrs.define
class MetricFamily:
    """A metric with its samples. Names of counters end in `_total`; units are seconds and bytes."""

    name: str
    kind: str  # one of: counter, gauge or histogram
    help: str
    samples: list[MetricSample] = attrs.Factory(list)

    def add(self, value: float, /, **labels: str) -> Self:
        """Add a value with these labels, and return the family."""
        self.samples.append(MetricSample("", tuple(labels.items()), value))
        return self

    def add_histogram(
        self, bounds: Sequence[float], counts: Sequence[float], total: float, /, **labels: str
    ) -> Self:
        """Add a distribution with these labels, and return the family.

        Args:
            bounds: upper bounds of the buckets, ascending.
            counts: the number of observations in each bucket, followed by the number above all bounds.
            total: the sum of the observed values.
            labels: labels of all its samples.
        """
        given, seen = tuple(labels.items()), 0.0
        for bound, count in zip((*bounds, math.inf), counts, strict=True):
            seen += count
            self.samples.append(MetricSample("_bucket", (*given, ("le", _number(bound))), seen))
        self.samples += [MetricSample("_sum", given, total), MetricSample("_count", given, seen)]
        return self


def metrics_text(families: Iterable[MetricFamily]) -> str:
    """Return the families in Prometheus' text format 0.0.4; families without samples are omitted."""
    lines: list[str] = []
    for family in families:
        if family.samples:
            lines.append(f"# HELP {family.name} {family.help.translate(_HELP_ESCAPES)}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            lines += [_line(family.name, sample) for sample in family.samples]
    return "".join(f"{line}\n" for line in lines)


def _line(name: str, sample: MetricSample) -> str:
    labels = ",".join(f'{label}="{value.translate(_ESCAPES)}"' for label, value in sample.labels)
    return f"{name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {_number(sample.value)}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)
