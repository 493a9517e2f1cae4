"""Why an enqueued job with limits does not start: which keys hold it back, in words for handles and pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import attrs

from firelock.clock import from_micros
from firelock.storage import Feature, Storage
from firelock.storage.admission import LimitNumbers, name_of, numbers_for, read_numbers
from firelock.text import span
from firelock.values import JobRecord, KeyState, LimitUse, State

_KIND = "limit"


@attrs.frozen
class KeyWait:
    """A key that does not admit a job now, as it was when it was read."""

    key: str
    running: int  # jobs that hold it
    concurrent: int | None  # how many may at once; None for any number
    is_paused: bool
    is_full: bool
    opens_in: int = 0  # micros until its rate admits the job; 0 where that is not what it waits for
    opens_at: datetime | None = None  # the same as an instant, by the storage's clock

    def __str__(self) -> str:
        """Return it in words: "limit tenant:7 (4 of 4 running)"."""
        why = []
        if self.is_paused:
            why.append("paused")
        if self.is_full:
            why.append(f"{self.running:,} of {self.concurrent:,} running")
        if self.opens_in:
            why.append(f"opens in {span(self.opens_in)}")
        return f"limit {self.key} ({', '.join(why)})"


def key_waits(storage: Storage, records: Sequence[JobRecord | None], now: int) -> list[list[KeyWait]]:
    """Return the keys that hold each job back, none for one that waits for a worker or for nothing.

    Costs three reads a key, and none for jobs without limits.
    """
    looks: dict[str, KeyState | None] = {}
    known: dict[str, LimitNumbers] = {}
    return [
        [
            wait
            for use in _uses(storage, record)
            if (wait := _wait(record, use, _look(storage, use.key, looks, known), known, now)) is not None
        ]
        for record in records
    ]


def waits_words(waits: Iterable[KeyWait]) -> str | None:
    """Return what holds a job back as one text; None for nothing."""
    return " and ".join(map(str, waits)) or None


def _uses(storage: Storage, record: JobRecord | None) -> Sequence[LimitUse]:
    if record is None or record.state is not State.ENQUEUED or record.admission is None:
        return ()
    return record.admission.limits if Feature.LIMITS in storage.features else ()


def _look(
    storage: Storage, key: str, looks: dict[str, KeyState | None], known: dict[str, LimitNumbers]
) -> KeyState | None:
    """Return how a key stands, and know the numbers of it and its name; each is read once."""
    if key not in looks:
        found = storage.find_keys(key, limit=1)  # of those that begin so the key itself is the first
        looks[key] = found[0] if found and found[0].key == key else None
    for one in {key, name_of(key)} - known.keys():
        record = storage.get_record(_KIND, one)
        known[one] = LimitNumbers() if record is None else read_numbers(record.value)
    return looks[key]


def _wait(
    record: JobRecord | None,
    use: LimitUse,
    state: KeyState | None,
    known: Mapping[str, LimitNumbers],
    now: int,
) -> KeyWait | None:
    numbers = numbers_for(use.key, known)
    running = 0 if state is None else state.running
    holds_itself = record is not None and state is not None and record.id in state.holders
    is_full = numbers.concurrent is not None and running - holds_itself >= numbers.concurrent
    opens_at = 0 if state is None else round(numbers.opens_at(state.free_at, use.cost))
    opens_in = max(0, opens_at - now)
    if not (numbers.is_paused or is_full or opens_in):
        return None
    at = from_micros(opens_at) if opens_in else None
    return KeyWait(use.key, running, numbers.concurrent, numbers.is_paused, is_full, opens_in, at)
