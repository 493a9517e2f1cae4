"""What some of the made-up jobs logged, and how far they said they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firelock.values import ClaimedJob, LogLine, Progress

if TYPE_CHECKING:
    from firelock.cli.seed_looks import Look
    from firelock.storage import Storage

__all__ = ["Notes"]

_STEPS = 6


class Notes:
    """Collects log lines and progress of jobs that ended within a span before now, and writes them."""

    def __init__(self, now: int, span: int) -> None:
        self._since = now - span
        self._lines: dict[str, list[LogLine]] = {}
        self._progress: dict[str, Progress] = {}

    def add(self, job: ClaimedJob, look: Look, started_at: int, at: int, *, share: float = 1.0) -> None:
        """The run logged its steps up to this share of them; only young jobs."""
        if at < self._since:
            return
        total = 12 + job.created_at % 49
        span = (at - started_at) / (_STEPS + 1)
        steps = max(1, int(_STEPS * share))
        done = [total * step * (share if share < 1 else 1) / steps for step in range(1, steps + 1)]
        lines = [
            LogLine(0, started_at, "info", f"{look.name} starts, {total} {look.noun} to do", job.attempt)
        ]
        lines += [
            LogLine(
                0, int(started_at + span * step), "info", f"{int(part)} of {total} {look.noun}", job.attempt
            )
            for step, part in enumerate(done, start=1)
        ]
        if total % 5 == 0:
            told = f"{look.noun} {total // 3} took 4.1 s, which is long"
            lines.insert(2, LogLine(0, lines[1].at, "warning", told, job.attempt))
        if share >= 1:
            lines.append(LogLine(0, at, "info", f"{total} {look.noun} done", job.attempt))
        self._lines[job.id] = lines
        self._progress[job.id] = Progress(
            int(done[-1]), total, lines[-1].at, f"{look.noun} {int(done[-1])} of {total}"
        )

    def flush(self, storage: Storage) -> None:
        """What was collected is stored."""
        if self._lines:
            storage.append_logs(self._lines, self._progress)
            self._lines, self._progress = {}, {}
