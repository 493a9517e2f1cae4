"""Storing jobs: plain ones by a script that does little for each, others by one that knows every kind."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

from typing_extensions import override

from firelock.limits import JobFacts, UniqueRow, lane_of, refuse_duplicate
from firelock.storage import (
    FINAL_STATES,
    Admission,
    Applied,
    BatchFinished,
    Duplicate,
    Inserted,
    JobNotFound,
    Moved,
    NewJob,
    On,
    RecordChange,
    Relations,
    State,
    StorageError,
    StorageUnavailable,
    continuation_target,
    read_relations,
    waiting_reason,
)
from firelock_redis.connections.database import RedisDatabase
from firelock_redis.layout.encoding import (
    LETTERS,
    lowest_place,
    number_word,
    payload_of,
    quoted,
    rare_of,
    text_word,
)
from firelock_redis.layout.words import NewBatch, NewJobWords, NewRelations, PlainJob, Run
from firelock_redis.verbs.limits import require_keys_beside, require_ties_beside
from firelock_redis.verbs.records import RecordVerbs, copied

ON_LETTERS = dict(zip(On, "SFDX", strict=True))
_kept_apart = attrgetter("state", "due_at", "reason", "tags", "recurring_id", "parents")
_NOTHING_APART = (State.ENQUEUED, None, None, (), None, ())
_PLAIN_LIMIT = 1_000  # jobs whose keys and values one command of a script can take
_KEYED_LIMIT = 500  # those of jobs with limits
_SIZE = Run._fields.index("size")


def _rules() -> str:
    """Return what follows from a parent's end, and the reasons of batches, as scripts read it."""
    rules: dict[str, object] = {
        LETTERS[state]: quoted(Moved.PARENT_ENDED.format(state=state)) for state in FINAL_STATES
    }
    for name in ("shut_out", "let_in", "swept", "stopped", "reopened"):
        rules[name] = quoted(Moved[name.upper()].value)
    for name in ("batch_ended", "batch_stuck"):  # the scripts insert the numbers, in this order
        rules[name] = quoted(re.sub(r"{(failed|total|waiting):,}", "%s", Moved[name.upper()].value))
    for on, letter in ON_LETTERS.items():
        for state in FINAL_STATES:
            target = continuation_target(on, state)
            waiting = "" if target is not None else quoted(waiting_reason(on, state))
            rules[letter + LETTERS[state]] = [LETTERS[target] if target else "", waiting]
    return json.dumps(rules)


RULES = _rules()


class InsertVerbs(RecordVerbs):
    """The verbs that store jobs."""

    @override
    def insert(
        self, jobs: Sequence[NewJob], *, within: object | None = None, only_if: RecordChange | None = None
    ) -> Inserted:
        """One round trip a partition, as a rule one."""
        self.refuse_within(within)
        for queue in {job.queue for job in jobs}:
            require_word(queue)
        if self._partitions.number > 1:
            require_parents_beside(self.database, jobs)
            require_ties_beside(self._partitions, jobs)
            require_keys_beside(self._partitions, jobs)
        if only_if is not None:
            return self._insert_if(jobs, only_if)
        if self._partitions.number == 1 and jobs:
            return Inserted(_store_jobs(self.database, 0, jobs))
        places = self._partitions.parted(range(len(jobs)), lambda place: jobs[place].id)
        results: list[bool | Duplicate] = [False] * len(jobs)
        # Those that can be refused first; where there are several, each is asked before anything is stored.
        refusable = [
            partition for partition, here in places.items() if any(_is_refusable(jobs[at]) for at in here)
        ]
        for partition in refusable if len(refusable) > 1 else ():
            here = [jobs[place] for place in places[partition]]
            answered(here, self._run("insert.judged", partition, len(here), *stored_arguments(here)))
        for partition in sorted(places, key=lambda one: one not in refusable):
            here = [jobs[place] for place in places[partition]]
            try:
                stored = _store_jobs(self.database, partition, here)
            except StorageUnavailable as error:
                self._partitions.begin_anywhere()  # who tries again is not refused 500 times in a row
                error.is_untouched &= not any(results)
                raise
            for place, is_new in zip(places[partition], stored, strict=True):
                results[place] = is_new
            for job in here:
                self._turns.note(partition, job.queue)
        return Inserted(results)

    def _insert_if(self, jobs: Sequence[NewJob], change: RecordChange) -> Inserted:
        """One round trip, in the first partition, where all records are."""
        for job in jobs:
            if self._partitions.of(job.id) != 0:
                raise StorageError(
                    f"Job {job.id} does not lie beside record {change.key!r}; derive its id by derived_id."
                )
        reply = self.database.run_replicated(
            "insert.jobs_if", 0, RULES, len(jobs), change.kind, change.key, change.value,
            change.expected_version, number_word(change.due_at),
            copied(change.kind, change.value), *stored_arguments(jobs),
        )  # fmt: skip
        is_stored = isinstance(reply[0], int)
        is_new = answered(jobs, reply[1:] if is_stored else reply) or [False] * len(jobs)
        answer = (Applied.APPLIED, Applied.ALREADY, Applied.REFUSED)[reply[0]]
        self.note_record(change.kind, is_changed=answer is Applied.APPLIED)
        return Inserted(is_new, answer)


def _is_refusable(job: NewJob) -> bool:
    asks = job.admission
    return (
        bool(job.parents) or job.relations_json is not None or (asks is not None and asks.unique is not None)
    )


@lru_cache(1_000)
def require_word(queue: str) -> None:
    """The queue's name can stand in a record, whose words white space parts; clients allow no other.

    Raises:
        StorageError: it cannot. Stored all the same, the job could be neither read nor claimed.
    """
    if queue.split() != [queue]:
        raise StorageError(f"Queue name {queue!r} holds white space or nothing; Redis cannot store its jobs.")


def require_parents_beside(database: RedisDatabase, jobs: Sequence[NewJob]) -> None:
    """Each job lies where its parents are.

    Raises:
        JobNotFound: a parent lies elsewhere, so that no script sees both.
    """
    partition_of = database.partitions.of
    for id, parent in ((job.id, edge.parent_id) for job in jobs for edge in job.parents):
        if partition_of(parent) != partition_of(id):
            raise JobNotFound(
                f"Job {id} is to wait for {parent}, which lies in another partition; make its id "
                "with new_id(parent), and its parents' ids beside one another. Nothing was stored."
            )


def _store_jobs(database: RedisDatabase, partition: int, jobs: Sequence[NewJob]) -> list[bool | Duplicate]:
    """Store jobs of one partition by the first script that knows their kind; return which are new."""
    plain = _plain_arguments(jobs)
    if plain is not None and database.run_replicated("insert_plain", partition, *plain):
        return [True] * len(jobs)
    keyed = _keyed_arguments(jobs) if plain is None else None
    if keyed is not None and (told := database.run_replicated("insert_keyed", partition, *keyed)) != 0:
        return [Duplicate(one) if one else True for one in told] or [True] * len(jobs)
    return answered(
        jobs, database.run_replicated("insert.jobs", partition, RULES, len(jobs), *stored_arguments(jobs))
    )


def _plain_arguments(jobs: Sequence[NewJob]) -> list[Any] | None:
    """Return jobs as scripts/insert_plain.lua reads them, in runs of one queue and priority.

    None where something special is asked for one of them beside what the payload alone holds, where they are
    too many, or not all members of one batch, or of none. The first may be that batch.
    """
    if len(jobs) > _PLAIN_LIMIT:
        return None
    first = jobs[0] if len(jobs) > 1 and jobs[0].state is State.AWAITING else None
    members = jobs if first is None else jobs[1:]
    relations = members[0].relations_json if members else None
    batch = "" if relations is None else _batch_alone(relations)
    about = ("",) if first is None else _new_batch(first)
    if batch is None or about is None or (first is not None and batch != first.id):
        return None
    arguments: list[Any] = [batch, *about]
    run, count = None, 0  # what the jobs of the present run have in common, and where their number stands
    for job in members:  # hot: what is added for each is a `PlainJob`
        rare = ""
        if relations is not None or not job.is_plain:
            if (
                job.relations_json != relations
                or job.admission_json is not None
                or _kept_apart(job) != _NOTHING_APART
            ):
                return None
            rare = rare_of(job)
        if (job.queue, job.priority) != run:
            run, count = (job.queue, job.priority), len(arguments) + _SIZE
            arguments += Run(queue=job.queue, lowest=lowest_place(job.priority), size=0)
            if first is not None:
                arguments += PlainJob(id=first.id, payload=payload_of(first, rare_of(first)))
                arguments[count], first = 1, None
        arguments += (job.id, payload_of(job, rare))
        arguments[count] += 1
    return arguments


def _new_batch(job: NewJob) -> tuple[Any, ...] | None:
    """Return a batch as scripts/insert_plain.lua reads it; None for one with other ties, or what is none."""
    relations = job.relations
    if relations is None or relations.batch is None or relations != Relations(batch=relations.batch):
        return None
    if job.parents or job.admission_json is not None or job.recurring_id is not None:
        return None
    keeps = " ".join("-" if keep is None else str(keep) for keep in relations.batch.keeps)
    batch = NewBatch(
        queue=job.queue,
        lowest=lowest_place(job.priority),
        due=number_word(job.due_at),
        reason=text_word(job.reason),
        fast="1" if relations.batch.fails_fast else "",
        keeps=keeps,
        tags=len(job.tags),
    )
    return *batch, *job.tags


@lru_cache(1_000)
def _batch_alone(relations_json: str) -> str | None:
    """Return the batch of a member; None where it has other ties too."""
    relations = read_relations(relations_json)
    return relations.batch_id if relations == Relations(relations.batch_id) else None


def _keyed_arguments(jobs: Sequence[NewJob]) -> list[Any] | None:
    """Return jobs as scripts/insert_keyed.lua reads them; None where one is none of those it stores."""
    if len(jobs) > _KEYED_LIMIT:
        return None
    arguments: list[Any] = []
    run, count = None, 0  # as in `_plain_arguments`
    for job in jobs:  # hot: what is added for each is a `KeyedJob`
        asks = job.admission
        if asks is None or job.relations_json is not None or _kept_apart(job) != _NOTHING_APART:
            return None
        standing = _standing(asks)
        if standing is None:
            return None
        if (job.queue, job.priority) != run:
            run, count = (job.queue, job.priority), len(arguments) + _SIZE
            arguments += Run(queue=job.queue, lowest=lowest_place(job.priority), size=0)
        arguments += (job.id, payload_of(job, rare_of(job)), job.admission_json, *standing)
        arguments[count] += 1
    return arguments


@lru_cache(1_000)
def _standing(asks: Admission) -> tuple[str, str] | None:
    """Return the last two words of a `KeyedJob`: its lane, and what is said besides.

    None where a call may change the job that has its unique key, or is refused then.
    """
    lane, use = lane_of(asks), asks.unique
    is_late = asks.start_before is not None or asks.start_within is not None
    is_odd = is_late or any(one.cost != 1 or one.is_strict for one in asks.limits)
    said = "\n" if lane and is_odd else ""
    if use is not None:
        if use.keeps_last or use.raises or use.wait is not None:
            return None
        said += f" {use.at_least} {use.key}"
    return lane or "", said


def stored_arguments(jobs: Sequence[NewJob]) -> list[Any]:
    """Return jobs as scripts/insert.lua reads them."""
    arguments: list[Any] = []
    for job in jobs:
        arguments += NewJobWords(
            id=job.id,
            payload=payload_of(job, rare_of(job)),
            state=LETTERS[job.state],
            queue=job.queue,
            lowest=lowest_place(job.priority),
            created=job.created_at,
            due=number_word(job.due_at),
            reason=text_word(job.reason),
            recurring=job.recurring_id or "",
            asks=job.admission_json or "",
            relations=job.relations_json or "",
            tags=len(job.tags),
        )
        arguments += (*job.tags, len(job.parents))
        for edge in job.parents:
            arguments += NewRelations(on=ON_LETTERS[edge.on], id=edge.parent_id)
    return arguments


def answered(jobs: Sequence[NewJob], reply: Sequence[Any]) -> list[bool | Duplicate]:
    """Return what a script answers for each job.

    Raises:
        JobNotFound: it says that a parent or a batch is not stored.
        BatchFinished: it says that a batch has ended or is cancelled.
        DuplicateJob: it says that another job has the unique key of one.
    """
    if reply and isinstance(reply[0], list):
        why, id, *others = reply[0]
        job = next(job for job in jobs if job.id == id)
        if why == "missing":
            is_batch = job.relations is not None and job.relations.batch_id == others[0]
            wish = "be a member of batch" if is_batch else "wait for"
            raise JobNotFound(f"Job {id} is to {wish} {others[0]}, which is not stored. Nothing was stored.")
        if why == "finished":
            raise BatchFinished(
                f"Batch {others[0]} has ended or is cancelled, so job {id} cannot be added to it. Nothing "
                "was stored. Make a batch of its own for what comes later, after=batch."
            )
        _raise_duplicate(job, *others)
    return [Duplicate(one) if isinstance(one, str) else bool(one) for one in reply]


def _raise_duplicate(job: NewJob, holder: str, why: str) -> None:
    asks = job.admission
    if asks is not None and asks.unique is not None:
        state = State.DELETED if why == "deleted" else State.ENQUEUED
        facts = JobFacts(state, 0, 0, why == "deleted", None, asks)
        refuse_duplicate(asks.unique, UniqueRow(holder, 0), facts)
