"""Changes of jobs as scripts/exchange.lua reads them: plain ends by two texts, others field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeAlias

from firelock.storage import ClaimedJob, ErrorInfo, Moved, Transition
from firelock_redis.layout.encoding import (
    LETTERS,
    entry_line,
    error_line,
    flags_of,
    number_word,
    quoted,
    text_word,
)
from firelock_redis.layout.partitions import Partitions
from firelock_redis.verbs.memos import memo_field

_LOOK_ELSEWHERE = 5_000_000  # micros after which a job looks again at those it waits for in other partitions
_PARENT_GONE = quoted(Moved.PARENT_GONE.value)
_MINUTE = 60_000_000
_ENDS_PLAINLY = frozenset("mcrfs")  # flags of functions/jobs.lua that ask for nothing more at an end
_FIELD_BY_FIELD = 200  # changes that one script makes of those that are not plain ends
_further = attrgetter("waits_for", "parents", "forget_from")
_NOTHING_FURTHER = (None, (), None)

Held: TypeAlias = tuple[str, ClaimedJob]
"""What was claimed here: the record less its last line, and the job."""


def write_changes(
    arguments: list[Any],
    transitions: Sequence[Transition],
    held: Sequence[Held | None],
    partitions: Partitions,
) -> tuple[list[int], list[list[int]]]:
    """Write changes behind the arguments, in groups; return their places in the order in which they are.

    Also the places of those that are to be sent before them, because they are too many for one script.

    Args:
        arguments: what the script is given before them.
        transitions: the changes.
        held: of each one the job as it was claimed here, None where it was not.
        partitions: where jobs are.
    """
    if not transitions:
        return [], []
    order: list[int] = []
    others: list[int] = []
    # Arguments of plain ends and their places, by session, queue and minute, then by batch, nothing for none.
    plain: dict[tuple[str, str, int | str], dict[str, tuple[list[Any], list[int]]]] = {}
    is_each_once = len({transition.job_id for transition in transitions}) == len(transitions)
    for place, (transition, one) in enumerate(zip(transitions, held, strict=True)):
        end = _plain_end(transition, *one) if one is not None and is_each_once else None
        if end is None:
            others.append(place)
            continue
        queue, words, batch = end
        expires = transition.expires_at
        key = (transition.session or "", queue, "" if expires is None else expires // _MINUTE)
        if key not in plain:
            plain[key] = {}
        if batch not in plain[key]:
            plain[key][batch] = [], []
        ends, here = plain[key][batch]
        ends += words
        here.append(place)
    for (session, queue, minute), by_batch in plain.items():  # members of batches first
        of_none = by_batch.pop("", ([], []))
        runs = "".join(f" {batch} {len(here)}" for batch, (_, here) in by_batch.items())
        places = [place for _, here in (*by_batch.values(), of_none) for place in here]
        arguments += (f"P{runs}", session, "S", minute, queue, len(places))
        for ends, _ in (*by_batch.values(), of_none):
            arguments += ends
        order += places
    before, others = others[:-_FIELD_BY_FIELD], others[-_FIELD_BY_FIELD:]
    for group in _alike(transitions, others):
        first = transitions[group[0]]
        letters = "".join(LETTERS[state] for state in first.from_states)
        is_further = _goes_further(first)
        kind = "=" if is_further else "-"
        arguments += (letters, first.session or "", LETTERS[first.to], kind, "", len(group))
        for place in group:
            arguments += _fields(transitions[place])
            if is_further:
                arguments += _further_fields(transitions[place], partitions)
        order += group
    starts = range(0, len(before), _FIELD_BY_FIELD)
    return order, [before[start : start + _FIELD_BY_FIELD] for start in starts]


def _plain_end(
    transition: Transition, record: str, job: ClaimedJob
) -> tuple[str, tuple[str, str, int, str], str] | None:
    """Return a plain end: queue, then id, first line, instant, record as arguments, then the batch.

    None for another.
    """
    if transition.started_at is None or not transition.is_plain_success:
        return None
    if (transition.fence, transition.attempt, transition.claimed_at) != (
        job.fence, job.attempt, job.claimed_at
    ):  # fmt: skip
        return None
    batch = ""
    if not record[1].isdigit():
        if not _ENDS_PLAINLY.issuperset(flags_of(record)):
            return None  # others wait for its end, which is announced on the long way
        ties = job.ties
        batch = (ties and ties.batch_id) or ""
    head, rest = record.split("\n", 1)
    at, expires, server = transition.at, transition.expires_at, transition.server
    result, absent = transition.result, transition.result_absent
    fresh = (
        f"S{head[1 : -len(transition.session or '')]}\n{rest}{at}\t{job.claimed_at}\t"
        f"{transition.started_at}\t\t{'' if expires is None else expires}\t\t"
        f"{'' if server is None else quoted(server)}\t\t"
        f"{'' if result is None else quoted(result)}\t{'' if absent is None else quoted(absent)}"
    )
    return job.queue, (transition.job_id, head + "\n", at, fresh), batch


# ---- field by field --------------------------------------------------------------------------------------


def _goes_further(transition: Transition) -> bool:
    """Whether the change suspends the job or makes it forget memos; most changes do neither."""
    return _further(transition) != _NOTHING_FURTHER


def _alike(transitions: Sequence[Transition], places: Sequence[int]) -> Iterator[list[int]]:
    """Yield runs of places that are alike in states and session, no job twice in one."""

    def kind(place: int) -> tuple[object, ...]:
        one = transitions[place]
        return one.from_states, one.session, one.to, _goes_further(one)

    for _, alike in groupby(places, kind):
        group: list[int] = []
        seen: set[str] = set()
        for place in alike:
            if transitions[place].job_id in seen:
                yield group
                group, seen = [], set()
            group.append(place)
            seen.add(transitions[place].job_id)
        yield group


def _fields(transition: Transition) -> tuple[Any, ...]:
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


def _further_fields(transition: Transition, partitions: Partitions) -> list[Any]:
    """Return a change that suspends the job or makes it forget as functions/suspensions.lua reads it.

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
