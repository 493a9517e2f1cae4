"""Rollups: what ended within each minute."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import bindparam, select

from firelock.storage import Rollup, add_rollups
from firelock_sql.statements import Statement, Text, insert_into
from firelock_sql.tables import rollups
from firelock_sql.transaction import Transaction

__all__ = ["record_metrics", "timeline"]

_COLUMNS = (
    rollups.c.minute, rollups.c.task, rollups.c.queue, rollups.c.outcome, rollups.c.count, rollups.c.duration,
    rollups.c.histogram,
)  # fmt: skip
_is_this = (
    (rollups.c.minute == bindparam("of_minute"))
    & (rollups.c.task == bindparam("of_task"))
    & (rollups.c.queue == bindparam("of_queue"))
    & (rollups.c.outcome == bindparam("of_outcome"))
)
_GET = Statement(select(*_COLUMNS).where(_is_this).with_for_update())
_PUT = insert_into(rollups, *(column.name for column in _COLUMNS))
_REPLACE = Text("""
UPDATE firelock_rollups SET count = :new_count, duration = :new_duration, histogram = :new_histogram
WHERE minute = :of_minute AND task = :of_task AND queue = :of_queue AND outcome = :of_outcome
""")
_SINCE = Text("""
SELECT minute, task, queue, outcome, count, duration, histogram FROM firelock_rollups
WHERE minute >= :since AND minute < :until ORDER BY minute, task, queue, outcome
""")


def _read(row: Any) -> Rollup:  # noqa: ANN401 - a driver's row
    minute, task, queue, outcome, count, duration, histogram = row
    return Rollup(minute, task, queue, outcome, count, duration, tuple(json.loads(histogram)))


def record_metrics(tx: Transaction, new: Sequence[Rollup]) -> None:
    """See `Storage.record_metrics`; in one order, so that two servers' rollups of a minute never cross."""
    for rollup in sorted(new, key=attrgetter("minute", "task", "queue", "outcome")):
        of = {
            "of_minute": rollup.minute,
            "of_task": rollup.task,
            "of_queue": rollup.queue,
            "of_outcome": rollup.outcome,
        }
        found = tx.one(_GET, of)
        total = rollup if found is None else add_rollups(_read(found), rollup)
        histogram = json.dumps(total.histogram)
        if found is None:
            key = {"minute": total.minute, "task": total.task, "queue": total.queue, "outcome": total.outcome}
            tx.run(_PUT, {**key, "count": total.count, "duration": total.duration, "histogram": histogram})
        else:
            change = {"new_count": total.count, "new_duration": total.duration, "new_histogram": histogram}
            tx.run(_REPLACE, {**of, **change})


def timeline(tx: Transaction, since: int, until: int, *, task: str | None, queue: str | None) -> list[Rollup]:
    """See `Storage.timeline`."""
    found = map(_read, tx.all(_SINCE, {"since": since, "until": until}))
    return [one for one in found if task in {None, one.task} and queue in {None, one.queue}]
