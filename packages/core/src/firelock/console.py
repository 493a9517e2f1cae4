"""What running jobs say: log lines and progress, gathered here and written in batches."""

from __future__ import annotations

import logging
import math
import threading
from collections import defaultdict
from collections.abc import Callable

from firelock.errors import StorageUnavailable
from firelock.job import LogLine, Progress
from firelock.storage import Storage
from firelock.words import printable

__all__ = ["LEVELS", "Console", "check_level", "check_progress"]

log = logging.getLogger(__name__)

LEVELS = ("debug", "info", "warning", "error")
_TEXT_LIMIT = 4_096
_JOB_LIMIT = 1_000  # lines a job may have waiting here; a storage keeps no more of it either


class Console:
    """Lines and progress of a child's jobs until the next flush; a flush is one storage call.

    Bounded: a job that writes faster than the flushes keeps its newest lines, and the first of them says how
    many were left out.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._lines: defaultdict[str, list[LogLine]] = defaultdict(list)
        self._left_out: defaultdict[str, int] = defaultdict(int)
        self._progress: dict[str, Progress] = {}

    def log(self, job_id: str, attempt: int, level: str, text: str) -> None:
        """One line waits to be written; it is cut at 4,096 characters."""
        check_level(level)
        line = LogLine(0, self._now(), level, _shortened(text), attempt)
        with self._lock:
            lines = self._lines[job_id]
            if len(lines) >= _JOB_LIMIT:
                del lines[0]
                self._left_out[job_id] += 1
            lines.append(line)

    def progress(self, job_id: str, done: float, total: float, message: str | None) -> None:
        """The newest progress of the job waits to be written."""
        check_progress(done, total)
        progress = Progress(done, total, self._now(), None if message is None else _shortened(message))
        with self._lock:
            self._progress[job_id] = progress

    def flush(self, storage: Storage) -> None:
        """Everything gathered is in the storage, or gathered still if the storage is unavailable.

        What the storage refuses for another reason is dropped with a word in the log: the ends of jobs are
        sent behind a flush, and no line may keep them waiting.

        Raises:
            StorageUnavailable: nothing was written.
        """
        with self._lock:
            if not self._lines and not self._progress:
                return
            lines, progress, left_out = dict(self._lines), self._progress, dict(self._left_out)
            self._lines.clear()
            self._left_out.clear()
            self._progress = {}
        for job_id, count in left_out.items():
            first = lines[job_id][0]
            lines[job_id][0] = LogLine(
                0, first.at, "warning", f"({count + 1} lines left out: written too fast)", first.attempt
            )
        try:
            storage.append_logs(lines, progress)
        except StorageUnavailable:
            self._put_back(lines, progress)
            raise
        except Exception:
            log.exception(
                "Log lines of %d jobs were refused by the storage and are lost.", len({*lines, *progress})
            )

    def _put_back(self, lines: dict[str, list[LogLine]], progress: dict[str, Progress]) -> None:
        with self._lock:
            for job_id, older in lines.items():
                self._lines[job_id] = (older + self._lines[job_id])[-_JOB_LIMIT:]
            self._progress = {**progress, **self._progress}


def check_level(level: str) -> None:
    """Return if there is such a level; else ValueError, which fails the job that used it."""
    if level not in LEVELS:
        message = f"Log level {level!r} is unknown; use one of {', '.join(LEVELS)}."
        raise ValueError(message)


def check_progress(done: float, total: float) -> None:
    """Return if both are finite numbers; else ValueError, which fails the job that reported them."""
    if not _is_finite(done) or not _is_finite(total):
        message = f"({done!r}, {total!r}) is no progress; pass two finite numbers, done and total."
        raise ValueError(message)


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _shortened(text: str) -> str:
    text = printable(str(text))
    return text if len(text) <= _TEXT_LIMIT else f"{text[: _TEXT_LIMIT - 1]}…"
