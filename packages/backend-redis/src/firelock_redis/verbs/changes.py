"""Changes of jobs as arguments of exchange.lua: plain outcomes as two strings, others field by field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeAlias

from firelock.storage import ClaimedJob, ErrorInfo, Moved, Transition
from firelock_redis.layout.encoding import (
    ERROR,
    FAILURE,
    LETTERS,
    entry_line,
    number_word,
    plain_end,
    quoted,
    text_word,
)
from firelock_redis.layout.partitions import Partitions
from firelock_redis.layout.words import Change, Further, Group
from firelock_redis.verbs.memos import memo_field

# A job that waits for jobs in other partitions checks them again after this many microseconds.
_CHECK_ELSEWHERE_AFTER = 5_000_000
_PARENT_GONE = quoted(Moved.PARENT_GONE.value)
_MINUTE = 60_000_000
_FIELD_BY_FIELD = 200  # maximum number of changes other than plain outcomes in one script
_further = attrgetter("waits_for", "parents", "forget_from")
_NOTHING_FURTHER = (None, (), None)

ClaimedRecord: TypeAlias = tuple[str, ClaimedJob]
"""A job that this process has claimed: the record without its last line, and the job."""


def write_changes(
    arguments: list[Any],
    transitions: Sequence[Transition],
    held: Sequence[ClaimedRecord | None],
    partitions: Partitions,
) -> tuple[list[int], list[list[int]]]:
    """Append changes to the arguments in groups; return the changes' positions in the order of the groups.

    If there are too many changes for one script, also return the positions of the changes to send before it.

    Args:
        arguments: the preceding arguments of the script.
        transitions: the changes.
        held: for each change, the job as this process has claimed it; None if it has not claimed the job.
        partitions: the partitions of jobs.
    """
    if not transitions:
        return [], []
    order: list[int] = []
    others: list[int] = []
    # The arguments and positions of plain outcomes, by session, queue and minute, and within these by batch.
    # The batch is an empty string if the job is not a member of one.
    plain: dict[tuple[str, str, int | str], dict[str, tuple[list[Any], list[int]]]] = {}
    is_each_once = len({transition.job_id for transition in transitions}) == len(transitions)
    for place, (transition, one) in enumerate(zip(transitions, held, strict=True)):
        end = plain_end(transition, *one) if one is not None and is_each_once else None
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
    for (session, queue, minute), by_batch in plain.items():  # members of batches come first
        of_none = by_batch.pop("", ([], []))
        batches = "".join(f" {batch} {len(here)}" for batch, (_, here) in by_batch.items())
        places = [place for _, here in (*by_batch.values(), of_none) for place in here]
        arguments += ("ends", len(places), session, "", "", queue, minute, batches)  # hot path: a `Group`
        for ends, _ in (*by_batch.values(), of_none):
            arguments += ends
        order += places
    before, others = others[:-_FIELD_BY_FIELD], others[-_FIELD_BY_FIELD:]
    for group in _alike(transitions, others):
        first = transitions[group[0]]
        is_further = _goes_further(first)
        arguments += Group(
            kind="further" if is_further else "changes",
            size=len(group),
            session=first.session or "",
            states="".join(LETTERS[state] for state in first.from_states),
            to=LETTERS[first.to],
        )
        for place in group:
            arguments += _fields(transitions[place])
            if is_further:
                arguments += _further_fields(transitions[place], partitions)
        order += group
    starts = range(0, len(before), _FIELD_BY_FIELD)
    return order, [before[start : start + _FIELD_BY_FIELD] for start in starts]


# ---- field by field --------------------------------------------------------------------------------------


def _goes_further(transition: Transition) -> bool:
    """Return whether the change suspends the job or deletes memos of it; most changes do neither."""
    return _further(transition) != _NOTHING_FURTHER


def _alike(transitions: Sequence[Transition], places: Sequence[int]) -> Iterator[list[int]]:
    """Yield series of positions with equal states and session; no series contains the same job twice."""

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


def _fields(transition: Transition) -> Change:
    """Return a change as an argument of scripts/exchange.lua, field by field."""
    at, error = transition.at, transition.error
    return Change(
        id=transition.job_id,
        fence=number_word(transition.fence),
        at=at,
        entry="" if transition.is_silent else entry_line(transition.entry()),
        reason=text_word(transition.reason),
        retries=number_word(transition.retries),
        crashes=number_word(transition.crashes),
        started=number_word(transition.started_at),
        server=text_word(transition.server),
        gives_back="1" if transition.gives_back else "",
        due=number_word(transition.due_at),
        expires=number_word(transition.expires_at),
        result=text_word(transition.result),
        absent=text_word(transition.result_absent),
        error="" if error is None else ERROR.write_of(error),
        failure="" if error is None else _failure(at, error),
        attempt=number_word(transition.attempt),
    )


def _failure(at: int, error: ErrorInfo) -> str:
    """Return an error in the format of the list of failed attempts."""
    return FAILURE.write(
        at=at,
        type=error.type,
        message=error.message,
        fingerprint=error.fingerprint,
        traceback=error.traceback,
    )


def _further_fields(transition: Transition, partitions: Partitions) -> list[Any]:
    """Return the part of a change that suspends the job or deletes memos of it.

    functions/suspensions.lua reads it. A script cannot read jobs in other partitions, so a job that waits for
    such jobs checks them again later.
    """
    parents = dict.fromkeys(edge.parent_id for edge in transition.parents)
    here = partitions.of(transition.job_id)
    local = [parent for parent in parents if partitions.of(parent) == here]
    elsewhere = len(parents) - len(local)
    further = Further(
        waits=text_word(transition.waits_for),
        forgets="" if transition.forget_from is None else memo_field(*transition.forget_from),
        elsewhere=elsewhere,
        check_at=transition.at + _CHECK_ELSEWHERE_AFTER if elsewhere else "",
        gone=_PARENT_GONE,
        parents=len(local),
    )
    return [*further, *local]
