"""Compare the cost of a job with and without OpenTelemetry: `python -m benchmarks.telemetry [JOBS]`.

It measures the processor time of the whole process. Jobs are in memory, where a job is cheapest and the
relative cost of a span is highest; they are enqueued singly and run by a server in this process. The kinds
take turns, and the result of each is its median.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from firelock import Firelock

REPETITIONS = 5


def untraced() -> tuple[list[object], Callable[[], None]]:
    """Return no plugin."""
    return [], lambda: None


def without_sdk() -> tuple[list[object], Callable[[], None]]:
    """Return the plugin for a process without an SDK."""
    from firelock.integrations.opentelemetry import OpenTelemetry

    return [OpenTelemetry()], lambda: None


def _with_sdk(*, is_sampled: bool) -> tuple[list[object], Callable[[], None]]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

    from firelock.integrations.opentelemetry import OpenTelemetry

    class Nowhere(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - discarded
            return SpanExportResult.SUCCESS

    tracers = TracerProvider(ALWAYS_ON if is_sampled else ALWAYS_OFF)
    tracers.add_span_processor(BatchSpanProcessor(Nowhere()))
    meters = MeterProvider([InMemoryMetricReader()])

    def end() -> None:
        tracers.shutdown()
        meters.shutdown()

    return [OpenTelemetry(tracer_provider=tracers, meter_provider=meters)], end


KINDS: dict[str, Callable[[], tuple[list[object], Callable[[], None]]]] = {
    "off": untraced,
    "API alone": without_sdk,
    "SDK, nothing sampled": partial(_with_sdk, is_sampled=False),
    "SDK, all sampled": partial(_with_sdk, is_sampled=True),
}


def cost(kind: str, jobs: int) -> tuple[float, float]:
    """Return the processor time per job for enqueueing and for running, in microseconds."""
    plugins, end = KINDS[kind]()
    with Firelock("memory://", plugins=plugins) as app:

        @app.task(name="nothing")
        def nothing(number: int) -> None: ...

        begun = time.process_time()
        last = nothing.enqueue(0)
        for number in range(1, jobs):
            last = nothing.enqueue(number)
        enqueued = time.process_time()
        with app.server(workers=4):
            last.result(timeout=300)
        ran = time.process_time()
    end()
    return (enqueued - begun) / jobs * 1e6, (ran - enqueued) / jobs * 1e6


def main() -> int:
    """Print a line for each kind."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    for kind in KINDS:
        cost(kind, 200)
    figures: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(REPETITIONS):
        for kind in KINDS:
            figures[kind].append(cost(kind, jobs))
    print(f"{jobs} jobs, median of {REPETITIONS}; µs of CPU time per job")
    print(f"{'OpenTelemetry':<24}{'enqueue':>10}{'run':>10}{'both':>10}{'more':>10}")
    base = sum(statistics.median(column) for column in zip(*figures["off"], strict=True))
    for kind, measured in figures.items():
        enqueue, run = (statistics.median(column) for column in zip(*measured, strict=True))
        both = enqueue + run
        print(f"{kind:<24}{enqueue:>10.1f}{run:>10.1f}{both:>10.1f}{both - base:>10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
