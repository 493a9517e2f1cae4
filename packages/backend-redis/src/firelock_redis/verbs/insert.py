"""Storing jobs: plain jobs with a fast script, and other jobs with a script for jobs of every kind."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
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
    further_fields,
    read_relations,
    waiting_reason,
)
from firelock_redis.connections.database import RedisDatabase
from firelock_redis.layout.encoding import (
    LETTERS,
    lowest_place,
    number_word,
    optional_of,
    payload_of,
    quoted,
    text_word,
)
from firelock_redis.layout.words import AnyJob, NewBatch, NewEdge, PlainJob, Run
from firelock_redis.verbs.limits import require_keys_colocated, require_relations_colocated
from firelock_redis.verbs.records import RecordVerbs, copied

ON_LETTERS = dict(zip(On, "SFDX", strict=True))
# The scripts insert_plain and insert_keyed store these additional fields without using them. For example,
# tags have their own keys, so only the script insert stores them.
_further, _NO_FURTHER = further_fields(
    "nominal_at", "timeout_seconds", "retry", "meta_json", "admission_json", "relations_json"
)
_PLAIN_LIMIT = 1_000  # number of jobs whose keys and values fit into one command of a script
_KEYED_LIMIT = 500  # the same number for jobs with limits
_SIZE = Run._fields.index("size")


def _rules() -> str:
    """Return the effects of a parent's final state, and the reasons for changes of batches, as JSON."""
    rules: dict[str, object] = {
        LETTERS[state]: quoted(Moved.PARENT_ENDED.format(state=state)) for state in FINAL_STATES
    }
    for name in ("waits_for_batch", "batch_opened", "swept", "stopped", "reopened"):
        rules[name] = quoted(Moved[name.upper()].value)
    for name in ("batch_ended", "batch_stuck"):  # the scripts replace each %s with a number, in this order
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
        """See `Storage.insert`. This takes one round trip per partition, usually one."""
        self.refuse_within(within)
        for queue in {job.queue for job in jobs}:
            require_word(queue)
        if self._partitions.number > 1:
            require_parents_colocated(self.database, jobs)
            require_relations_colocated(self._partitions, jobs)
            require_keys_colocated(self._partitions, jobs)
        if only_if is not None:
            return self._insert_if(jobs, only_if)
        if self._partitions.number == 1 and jobs:
            return Inserted(_store_jobs(self.database, 0, jobs))
        places = self._partitions.by_partition(range(len(jobs)), lambda place: jobs[place].id)
        results: list[bool | Duplicate] = [False] * len(jobs)
        # Partitions with jobs that might be refused come first. If there are several of them, all are checked
        # before anything is stored.
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
                # Otherwise, the next 500 ids would belong to the same partition, so a retry would fail as
                # well.
                self._partitions.begin_anywhere()
                error.is_untouched &= not any(results)
                raise
            for place, is_new in zip(places[partition], stored, strict=True):
                results[place] = is_new
            for job in here:
                self._turns.note(partition, job.queue)
        return Inserted(results)

    def _insert_if(self, jobs: Sequence[NewJob], change: RecordChange) -> Inserted:
        """Store the jobs if the record has the expected version, in one round trip to the first partition."""
        for job in jobs:
            if self._partitions.of(job.id) != 0:
                raise StorageError(
                    f"Job {job.id} is not in the partition of record {change.key!r}; create its id with "
                    "derived_id."
                )
        reply = self.database.run_replicated(
            "insert.jobs_if", 0, RULES, len(jobs), change.kind, change.key, change.value,
            change.expected_version, number_word(change.due_at),
            copied(change.kind, change.value), *stored_arguments(jobs),
        )  # fmt: skip
        is_stored = isinstance(reply[0], int)
        is_new = answered(jobs, reply[1:] if is_stored else reply) or [False] * len(jobs)
        result = (Applied.APPLIED, Applied.ALREADY, Applied.REFUSED)[reply[0]]
        self.note_record(change.kind, is_changed=result is Applied.APPLIED)
        return Inserted(is_new, result)


def _is_refusable(job: NewJob) -> bool:
    admission = job.admission
    return (
        bool(job.parents)
        or job.relations_json is not None
        or (admission is not None and admission.unique is not None)
    )


@lru_cache(1_000)
def require_word(queue: str) -> None:
    """Check that the queue's name can be stored in a record, in which white space separates the fields.

    Clients already reject such names.

    Raises:
        StorageError: If the name is empty or contains white space. The job could be neither read nor claimed.
    """
    if queue.split() != [queue]:
        raise StorageError(f"Queue name must not be empty or contain white space, got {queue!r}.")


def require_parents_colocated(database: RedisDatabase, jobs: Sequence[NewJob]) -> None:
    """Check that each job is in the partition of its parents, so that one script can read both.

    Raises:
        JobNotFound: If a parent is in another partition.
    """
    partition_of = database.partitions.of
    for id, parent in ((job.id, edge.parent_id) for job in jobs for edge in job.parents):
        if partition_of(parent) != partition_of(id):
            raise JobNotFound(
                f"Job {id} cannot wait for {parent}, which is in another partition. Create its id with "
                "new_id(parent), and the ids of several parents in one partition. Nothing was stored."
            )


def _store_jobs(database: RedisDatabase, partition: int, jobs: Sequence[NewJob]) -> list[bool | Duplicate]:
    """Store jobs of one partition with the fastest script that supports them; return a result per job."""
    plain = _plain_arguments(jobs)
    if plain is not None and database.run_replicated("insert_plain", partition, *plain):
        return [True] * len(jobs)
    keyed = _keyed_arguments(jobs) if plain is None else None
    if keyed is not None and (reply := database.run_replicated("insert_keyed", partition, *keyed)) != 0:
        return [Duplicate(one) if one else True for one in reply] or [True] * len(jobs)
    return answered(
        jobs, database.run_replicated("insert.jobs", partition, RULES, len(jobs), *stored_arguments(jobs))
    )


def _plain_arguments(jobs: Sequence[NewJob]) -> list[Any] | None:
    """Return jobs as arguments of scripts/insert_plain.lua, in series of one queue and priority.

    Return None if the script does not support them. This is the case if there are too many jobs, if a job
    needs more than its payload, if only some jobs are members of a batch, or if the jobs are members of
    different batches. The first job may be the batch itself.
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
    run, count = None, 0  # the queue and priority of the current series, and the index of its size
    for job in members:  # hot path: add a `PlainJob` for each job
        optional = ""
        if relations is not None or not job.is_plain:
            if (
                job.relations_json != relations
                or job.admission_json is not None
                or _further(job) != _NO_FURTHER
            ):
                return None
            optional = optional_of(job)
        if (job.queue, job.priority) != run:
            run, count = (job.queue, job.priority), len(arguments) + _SIZE
            arguments += Run(queue=job.queue, lowest=lowest_place(job.priority), size=0)
            if first is not None:
                arguments += PlainJob(id=first.id, payload=payload_of(first, optional_of(first)))
                arguments[count], first = 1, None
        arguments += (job.id, payload_of(job, optional))
        arguments[count] += 1
    return arguments


def _new_batch(job: NewJob) -> tuple[Any, ...] | None:
    """Return a batch as arguments of scripts/insert_plain.lua.

    Return None for a job that is not a batch, and for a batch that has other relations, parents, limits or a
    recurring job.
    """
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
    """Return the batch of a member; None if the job has other relations."""
    relations = read_relations(relations_json)
    return relations.batch_id if relations == Relations(relations.batch_id) else None


def _keyed_arguments(jobs: Sequence[NewJob]) -> list[Any] | None:
    """Return jobs as arguments of scripts/insert_keyed.lua; None if the script does not support them."""
    if len(jobs) > _KEYED_LIMIT:
        return None
    arguments: list[Any] = []
    run, count = None, 0  # as in `_plain_arguments`
    for job in jobs:  # hot path: add a `KeyedJob` for each job
        admission = job.admission
        if admission is None or job.relations_json is not None or _further(job) != _NO_FURTHER:
            return None
        lane_and_details = _lane_and_details(admission)
        if lane_and_details is None:
            return None
        if (job.queue, job.priority) != run:
            run, count = (job.queue, job.priority), len(arguments) + _SIZE
            arguments += Run(queue=job.queue, lowest=lowest_place(job.priority), size=0)
        arguments += (job.id, payload_of(job, optional_of(job)), job.admission_json, *lane_and_details)
        arguments[count] += 1
    return arguments


@lru_cache(1_000)
def _lane_and_details(admission: Admission) -> tuple[str, str] | None:
    """Return the last two values of a `KeyedJob`: `lane` and `details`.

    Return None if the script does not support the unique key: a duplicate call changes the job that has the
    key, or raises an error.
    """
    lane, use = lane_of(admission), admission.unique
    is_late = admission.start_before is not None or admission.start_within is not None
    has_details = is_late or any(one.cost != 1 or one.is_strict for one in admission.limits)
    details = "\n" if lane and has_details else ""
    if use is not None:
        if use.keeps_last or use.raises or use.wait is not None:
            return None
        details += f" {use.at_least} {use.key}"
    return lane or "", details


def stored_arguments(jobs: Sequence[NewJob]) -> list[Any]:
    """Return jobs as arguments of scripts/insert.lua."""
    arguments: list[Any] = []
    for job in jobs:
        arguments += AnyJob(
            id=job.id,
            payload=payload_of(job, optional_of(job)),
            state=LETTERS[job.state],
            queue=job.queue,
            lowest=lowest_place(job.priority),
            created=job.created_at,
            due=number_word(job.due_at),
            reason=text_word(job.reason),
            recurring=job.recurring_id or "",
            admission=job.admission_json or "",
            relations=job.relations_json or "",
            tags=len(job.tags),
        )
        arguments += (*job.tags, len(job.parents))
        for edge in job.parents:
            arguments += NewEdge(on=ON_LETTERS[edge.on], id=edge.parent_id)
    return arguments


def answered(jobs: Sequence[NewJob], reply: Sequence[Any]) -> list[bool | Duplicate]:
    """Return the result of a script for each job.

    Raises:
        JobNotFound: If a parent or a batch is not stored.
        BatchFinished: If a batch has ended or is cancelled.
        DuplicateJob: If another job has the unique key of one of the jobs.
    """
    if reply and isinstance(reply[0], list):
        why, id, *others = reply[0]
        job = next(job for job in jobs if job.id == id)
        if why == "missing":
            is_batch = job.relations is not None and job.relations.batch_id == others[0]
            wish = "be added to batch" if is_batch else "wait for"
            raise JobNotFound(f"Job {id} cannot {wish} {others[0]}, which is not stored. Nothing was stored.")
        if why == "finished":
            raise BatchFinished(
                f"Batch {others[0]} has ended or is cancelled, so job {id} cannot be added to it. Nothing "
                "was stored. Create another batch for later jobs, with after=batch."
            )
        _raise_duplicate(job, *others)
    return [Duplicate(one) if isinstance(one, str) else bool(one) for one in reply]


def _raise_duplicate(job: NewJob, holder: str, why: str) -> None:
    admission = job.admission
    if admission is not None and admission.unique is not None:
        state = State.DELETED if why == "deleted" else State.ENQUEUED
        facts = JobFacts(state, 0, 0, why == "deleted", None, admission)
        refuse_duplicate(admission.unique, UniqueRow(holder, 0), facts)
