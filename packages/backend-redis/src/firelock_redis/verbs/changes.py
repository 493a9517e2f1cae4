"""Changes of jobs as scripts/exchange.lua reads them, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from firelock.storage import ErrorInfo, Moved, Transition
from firelock_redis.layout.encoding import entry_line, error_line, number_word, quoted, text_word
from firelock_redis.layout.partitions import Partitions
from firelock_redis.verbs.memos import memo_field

_LOOK_ELSEWHERE = 5_000_000  # micros after which a job looks again at those it waits for in other partitions
_PARENT_GONE = quoted(Moved.PARENT_GONE.value)
_further = attrgetter("waits_for", "parents", "forget_from")
_NOTHING_FURTHER = (None, (), None)


def goes_further(transition: Transition) -> bool:
    """Tell whether the change suspends the job or makes it forget, which most do not."""
    return _further(transition) != _NOTHING_FURTHER


def _kind(transition: Transition) -> tuple[object, ...]:
    return transition.from_states, transition.session, transition.to, goes_further(transition)


def groups_of(transitions: Sequence[Transition], places: Sequence[int]) -> Iterator[list[int]]:
    """Yield runs of places that are alike in states and session, no job twice in one."""
    for _, alike in groupby(places, lambda place: _kind(transitions[place])):
        group: list[int] = []
        seen: set[str] = set()
        for place in alike:
            if transitions[place].job_id in seen:
                yield group
                group, seen = [], set()
            group.append(place)
            seen.add(transitions[place].job_id)
        yield group


def fields_of(transition: Transition) -> tuple[Any, ...]:
    """Return a change as scripts/exchange.lua reads it, field by field."""
    return (
        transition.job_id, number_word(transition.fence), transition.at,
        "" if transition.is_silent else entry_line(transition.entry()), text_word(transition.reason),
        number_word(transition.retries), number_word(transition.crashes), number_word(transition.started_at),
        text_word(transition.server), "1" if transition.gives_back else "", number_word(transition.due_at),
        number_word(transition.expires_at), text_word(transition.result), text_word(transition.result_absent),
        *_failure(transition.at, transition.error),
        number_word(transition.attempt),
    )  # fmt: skip


def _failure(at: int, error: ErrorInfo | None) -> tuple[str, str]:
    """Return an error as the record keeps it, and as the list of failed attempts does."""
    if error is None:
        return "", ""
    fields = [at, error.type, error.message, error.fingerprint, error.traceback]
    return error_line(error), json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def further_fields(transition: Transition, partitions: Partitions) -> list[Any]:
    """Return what scripts/suspensions.lua reads of a change that suspends the job or makes it forget.

    No script sees jobs that lie in other partitions: who waits for such looks again now and then.
    """
    parents = dict.fromkeys(edge.parent_id for edge in transition.parents)
    here = partitions.of(transition.job_id)
    beside = [parent for parent in parents if partitions.of(parent) == here]
    elsewhere = len(parents) - len(beside)
    return [
        text_word(transition.waits_for),
        "" if transition.forget_from is None else memo_field(*transition.forget_from),
        elsewhere, transition.at + _LOOK_ELSEWHERE if elsewhere else "", _PARENT_GONE, len(beside), *beside,
    ]  # fmt: skip
