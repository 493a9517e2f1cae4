"""Limits and unique keys: queries for people, and checks that jobs are in the partition of their keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

from typing_extensions import override

from firelock import ConfigurationError
from firelock.limits import LINE_LANES, Spot, in_turns, parts_of, place_of, spots
from firelock.storage import Admission, KeyState, NewJob, Relations, UniqueState, WaitingJobs
from firelock_redis.connections.database import RedisVerbs
from firelock_redis.layout.encoding import UNIQUE_OWNER, number_word
from firelock_redis.layout.partitions import EVERYWHERE, Partitions
from firelock_redis.layout.words import KeyReply, LanePart, Line

_key = attrgetter("key")


class LimitVerbs(RedisVerbs):
    """The verbs of limits and unique keys."""

    @override
    def spend(self, key: str, *, cost: int = 0, until: int | None = None) -> int:
        """See `Storage.spend`. This takes one round trip."""
        opens_at = int(
            self._run("limit_keys.spend", self._partitions.of_key(key), key, cost, number_word(until))
        )
        if cost < 0:
            self._turns.note(EVERYWHERE)
        return opens_at

    @override
    def find_keys(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[KeyState]:
        """See `Storage.find_keys`. This takes one round trip per partition.

        More are needed to count tens of thousands of lanes.
        """
        found: list[KeyState] = []
        for partition in range(self._partitions.number):
            more, last, here = 1, after, 0
            while more and here < limit:
                more, last, *keys = self._run("limit_keys.list", partition, prefix, last, limit - here)
                found += map(_key_state, keys)
                here += len(keys)
        return sorted(found, key=_key)[:limit]

    @override
    def find_waiting(
        self, key: str, *, after: int = 0, limit: int = 100, job_id: str | None = None
    ) -> WaitingJobs:
        """See `Storage.find_waiting`. This takes two round trips to one partition.

        The first round trip reads the lanes of the key, the second one the jobs in some of these lanes.
        """
        partition = self._partitions.of_key(key)
        reply = self._run("limit_keys.line", partition, key, LINE_LANES, job_id or "")
        (is_cut, own, rank), rest = Line(*reply[: len(Line._fields)]), reply[len(Line._fields) :]
        lanes, lengths = [*rest[::2]], [*rest[1::2]]
        if own and own not in lanes:
            lanes.append(own)
            lengths.append(rank + 1)

        def count(of: Sequence[int], most: int) -> list[int]:
            return [min(lengths[lane], most) for lane in of]

        found = spots(count, len(lanes), after, limit)
        parts = parts_of(found)
        asked = [
            word
            for lane, (before, some) in parts.items()
            for word in LanePart(lane=lanes[lane], before=before, size=some)
        ]
        ids = self._run("limit_keys.line_ids", partition, *asked) if asked else []
        place = place_of(count, len(lanes), Spot(lanes.index(own), rank)) if own else None
        return WaitingJobs(in_turns(found, dict(zip(parts, ids, strict=True))), place, bool(is_cut))

    @override
    def find_unique(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[UniqueState]:
        """See `Storage.find_unique`. This takes one round trip per partition."""
        found: list[UniqueState] = []
        for reply in self.database.run_everywhere("limit_keys.unique", prefix, after, limit):
            for key, stored in zip(reply[::2], reply[1::2], strict=True):
                free_at, job_id = UNIQUE_OWNER.read(stored, "free_at", "id")
                found.append(UniqueState(key=key, job_id=job_id, free_at=int(free_at)))
        return sorted(found, key=_key)[:limit]


def _key_state(reply: Sequence[Any]) -> KeyState:
    of, holders = KeyReply(*reply[: len(KeyReply._fields)]), reply[len(KeyReply._fields) :]
    return KeyState(
        key=of.key,
        holders=tuple(holders),
        running=of.running,
        waiting=of.waiting,
        next_arrival_at=int(of.next_arrival_at),
        others=tuple(of.others),
    )


def admission_keys(admission: Admission) -> list[str]:
    """Return the keys that determine the partition of a job with this admission."""
    keys = [use.key for use in admission.limits]
    return keys if admission.unique is None else [*keys, admission.unique.key]


def require_keys_colocated(partitions: Partitions, jobs: Sequence[NewJob]) -> None:
    """Check that each job is in the partition of all its keys, so that one script can check them.

    Raises:
        ConfigurationError: If a job and one of its keys are in different partitions. Nothing was stored.
    """
    for job in jobs:
        admission = job.admission
        if admission is None:
            continue
        keys = admission_keys(admission)
        if {partitions.of(job.id)}.issuperset(map(partitions.of_key, keys)):
            continue
        unique = None if admission.unique is None else admission.unique.key
        shown = " and ".join(repr(key.partition(" ")[2] if key == unique else key) for key in keys)
        raise ConfigurationError(
            f"Job {job.id} of task {job.task!r} must be in the same partition as {shown}. This Redis has "
            f"{partitions.number} partitions. {_fix(partitions, job, keys)} Nothing was stored."
        )


def require_relations_colocated(partitions: Partitions, jobs: Sequence[NewJob]) -> None:
    """Check that each job is in the partition of its batch, its caller and the jobs whose results it uses.

    Raises:
        ConfigurationError: If a job and one of these jobs are in different partitions. Nothing was stored.
    """
    for job in jobs:
        relations = job.relations
        if relations is None:
            continue
        for relation, other in _related_jobs(relations):
            if partitions.of(other) != partitions.of(job.id):
                raise ConfigurationError(
                    f"Job {job.id} of task {job.task!r} must be in the same partition as {relation}, "
                    f"{other}. This Redis has {partitions.number} partitions. Create the job's id with "
                    f"new_ids(count, colocate_with={other!r}). Nothing was stored."
                )


def _related_jobs(relations: Relations) -> Iterator[tuple[str, str]]:
    if relations.batch_id is not None:
        yield "its batch", relations.batch_id
    if relations.caller_id is not None:
        yield "its caller", relations.caller_id
    for one in relations.inputs:
        yield "a job whose result it uses", one.job_id


def _fix(partitions: Partitions, job: NewJob, keys: Sequence[str]) -> str:
    if len(set(map(partitions.of_key, keys))) > 1:
        return (
            "All keys of a job must be in one partition. Use keys that are equal up to their first '/', for "
            "example 'tenant:7' and 'tenant:7/smtp'."
        )
    relations = job.relations
    if relations is not None and relations.batch_id is not None:
        return (
            f"The job is in the partition of its batch {relations.batch_id}. Create the batch in the "
            "partition of the key, with fire.batch(name, colocate_with=key)."
        )
    if job.parents or (relations is not None and relations.caller_id is not None):
        return (
            "The job is in the partition of its parent. Use keys for both that are equal up to their first "
            "'/', for example 'tenant:7' and 'tenant:7/smtp'."
        )
    if job.recurring_id is not None:
        return (
            "The jobs of a recurring job are in the first partition. Enqueue a task with these keys from the "
            "recurring job."
        )
    return "Create its id with new_ids(count, colocate_with=key)."
