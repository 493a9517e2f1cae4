"""The application that servers run; it measures its exchanges, and how long ends wait for them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.isolation import tasks
from firelock import Firelock, hookimpl
from firelock.storage import Exchange, Storage


class Measures:
    """The measurements of one process, in seconds: each exchange, and each end until it was stored."""

    def __init__(self) -> None:
        self.exchanges: list[tuple[float, float]] = []  # time of the end, duration
        self.ends: list[tuple[float, float]] = []  # total wait, and the part of the exchange that stored it
        self._ended: dict[str, float] = {}

    def note_end(self, job_id: str) -> None:
        """Note that the task of a job returns now."""
        self._ended[job_id] = time.monotonic()

    def watch(self, storage: Storage) -> None:
        """Measure the calls of this storage from now on."""
        for verb in ("exchange", "apply", "claim"):
            setattr(storage, verb, self._timed(verb, getattr(storage, verb)))

    def _timed(self, verb: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the verb's own type
            began = time.monotonic()
            answer = call(*args, **kwargs)
            now = time.monotonic()
            if verb != "apply":
                self.exchanges.append((now, now - began))
            results = answer.results if isinstance(answer, Exchange) else answer
            if isinstance(args[0], Sequence) and isinstance(results, list):
                self._note_stored(args[0], results, now, now - began)
            return answer

        return timed

    def _note_stored(self, sent: Sequence[Any], results: Sequence[Any], now: float, took: float) -> None:
        for transition, result in zip(sent, results, strict=True):
            ended = self._ended.pop(transition.job_id, None) if result.is_applied else None
            if ended is not None:
                self.ends.append((now - ended, took))

    @hookimpl
    def worker_process_stopped(self) -> None:
        """Write the measurements to a file."""
        content = json.dumps({"exchanges": self.exchanges, "ends": self.ends})
        (Path(os.environ[tasks.MEASURES]) / f"{os.getpid()}.json").write_text(content)


measures = Measures()
fire = Firelock(plugins=[measures])
tasks.declare(fire, measures.note_end)
measures.watch(fire.storage)
