"""Metrics in the Prometheus text format, parsed by the Prometheus client library."""

from __future__ import annotations

import math

from prometheus_client.parser import text_string_to_metric_families

from firelock import MetricFamily, metrics_text


def read(text):
    """Return the kind and help of every family, and the labels and value of every sample."""
    families = list(text_string_to_metric_families(text))
    samples = {(one.name, tuple(one.labels.items())): one.value for each in families for one in each.samples}
    return {family.name: (family.type, family.documentation) for family in families}, samples


def test_counters_and_gauges_are_read_back_unchanged():
    """Names, kinds, help, labels and values are preserved. A family without samples is omitted."""
    families = [
        MetricFamily("jobs_total", "counter", "Jobs.").add(3, queue="mail").add(0.25, queue="bulk"),
        MetricFamily("up", "gauge", "Up.").add(1),
        MetricFamily("empty", "gauge", "Nothing."),
    ]

    kinds, samples = read(metrics_text(families))

    assert kinds == {"jobs": ("counter", "Jobs."), "up": ("gauge", "Up.")}
    assert samples == {
        ("jobs_total", (("queue", "mail"),)): 3.0,
        ("jobs_total", (("queue", "bulk"),)): 0.25,
        ("up", ()): 1.0,
    }


def test_special_characters_in_labels_and_help_are_escaped():
    hostile = 'a"b\\c\nd} 1'

    kinds, samples = read(metrics_text([MetricFamily("x", "gauge", "One\nline \\.").add(1, name=hostile)]))

    assert kinds == {"x": ("gauge", "One\nline \\.")}
    assert samples == {("x", (("name", hostile),)): 1.0}


def test_histogram_buckets_are_cumulative():
    """Each bucket includes all lower buckets. The last bucket equals the count."""
    family = MetricFamily("h", "histogram", "H.").add_histogram((0.5, 1.0), (2, 0, 3), 7.5, q="a")

    _, samples = read(metrics_text([family]))

    assert samples == {
        ("h_bucket", (("q", "a"), ("le", "0.5"))): 2.0,
        ("h_bucket", (("q", "a"), ("le", "1"))): 2.0,
        ("h_bucket", (("q", "a"), ("le", "+Inf"))): 5.0,
        ("h_sum", (("q", "a"),)): 7.5,
        ("h_count", (("q", "a"),)): 5.0,
    }


def test_infinite_values_are_written_in_prometheus_format():
    """The client library reads them back as infinity."""
    _, samples = read(metrics_text([MetricFamily("x", "gauge", "X.").add(math.inf).add(-math.inf, a="b")]))

    assert list(samples.values()) == [math.inf, -math.inf]
