"""Rollups: what ended within each minute, a key a minute."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

from typing_extensions import override

from firelock.storage import Rollup
from firelock_redis.database import RedisDatabase
from firelock_redis.verbs import RedisVerbs

_BATCH = 100
_order = attrgetter("minute", "task", "queue", "outcome")


class MetricVerbs(RedisVerbs):
    """The verbs of rollups; they lie in the first partition."""

    @override
    def record_metrics(self, rollups: Sequence[Rollup]) -> None:
        """Each hundred is a step and a round trip."""
        for first in range(0, len(rollups), _BATCH):
            arguments: list[object] = []
            for one in rollups[first : first + _BATCH]:
                figures = " ".join(map(str, (one.count, one.duration, *one.histogram)))
                arguments += (one.minute, _texts(one.task, one.queue, one.outcome), figures)
            self.database.run("metrics.record", 0, *arguments)

    @override
    def timeline(
        self, since: int, until: int, *, task: str | None = None, queue: str | None = None
    ) -> list[Rollup]:
        """One round trip for some five hundred rollups."""
        begins = "" if task is None else _texts(task)[:-1] + ","
        contains = "" if queue is None else "," + _texts(queue)[1:-1] + ","
        found: list[Rollup] = []
        following: object = since
        while following != "":
            following, *minutes = self.database.run("metrics.timeline", 0, following, until, begins, contains)
            found += (
                one
                for one in sorted(_read(minutes), key=_order)
                if task in {None, one.task} and queue in {None, one.queue}
            )
        return found


def _texts(*texts: str) -> str:
    return json.dumps(texts, ensure_ascii=False, separators=(",", ":"))


def _read(minutes: Sequence[Any]) -> Iterator[Rollup]:
    for minute, stored in zip(minutes[::2], minutes[1::2], strict=True):
        for texts, figures in zip(stored[::2], stored[1::2], strict=True):
            task, queue, outcome = json.loads(texts)
            count, duration, *histogram = map(int, figures.split(" "))
            yield Rollup(int(minute), task, queue, outcome, count, duration, tuple(histogram))


def prune_metrics(database: RedisDatabase, limit: int) -> int:
    """Up to `limit` minutes older than 30 days are gone with their rollups; return how many. For `prune`."""
    return int(database.run("metrics.prune", 0, limit)) if limit > 0 else 0
