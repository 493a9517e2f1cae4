"""Random operations on unique keys; the jobs determine the holder of each key and the expected results."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from firelock.errors import DuplicateJob
from firelock.model.answers import Duplicate
from firelock.model.clock import SECOND
from firelock.model.job import JobRecord, NewJob, Transition
from firelock.model.limit import UniqueUse, Until
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import Applied, Storage
from firelock.testing.conformance import scene as ends
from firelock.testing.conformance.operations.seeded import SeededOperations
from firelock.testing.conformance.scene import BASE, DAY, HOUR, Running, asks

_MINUTE = 60 * SECOND
_KEYS = ("tasks.run kit/a", "tasks.run kit/b")
_ENDED = (State.SUCCEEDED, State.FAILED, State.DELETED)


@attrs.define
class _Taking:
    """The last job that took a key."""

    job_id: str
    starts: int  # how often the job had started at that time
    free_at: int  # the key is taken at least until this time
    created_at: int


def _starts(job: JobRecord) -> int:
    return job.attempt + job.crashes


def has_key(job: JobRecord, use: UniqueUse, starts: int, now: int) -> bool:
    """Return whether a job should still have the key that it took after this number of starts."""
    is_unstarted = _starts(job) == starts and job.state is not State.PROCESSING
    late = job.admission.start_before if job.admission else None
    if late is not None and late < now and is_unstarted and not starts and job.state is State.ENQUEUED:
        return False
    if use.until is Until.DUE:
        return job.state is State.SCHEDULED and is_unstarted
    if use.until is Until.STARTED:
        return is_unstarted and job.state not in _ENDED
    if job.session is not None:
        return True
    if use.until is Until.SUCCEEDED:
        return job.state not in (State.SUCCEEDED, State.DELETED)
    return job.state not in _ENDED


class UniqueOperations(SeededOperations):
    """Operations that create, run, end and requeue jobs with one of two keys.

    Each run uses one kind of unique key.
    """

    def __init__(self, open_handle: Callable[[], Storage], seed: int, handles: int = 2) -> None:
        super().__init__(open_handle, seed, handles)
        random = self.random
        until = random.choice(list(Until))
        is_debounced = until is Until.DUE
        keeps = until is Until.STARTED or is_debounced
        self.use = UniqueUse(
            "", until,
            at_least=0 if is_debounced else random.choice((0, 0, 90 * _MINUTE)),
            keeps_last=keeps and random.random() < 0.5,
            raises=not is_debounced and random.random() < 0.2,
            wait=HOUR if is_debounced else None,
            max_wait=random.choice((None, 150 * _MINUTE)) if is_debounced else None,
        )  # fmt: skip
        if self.use.keeps_last and not is_debounced:
            self.use = attrs.evolve(self.use, at_least=0)
        self.record(f"{self.use}")
        self.ids: list[str] = []
        self.taken: dict[str, _Taking] = {}
        self.held: list[Running] = []
        self.begun = 0
        self.child = self._begin()

    def _begin(self) -> ClaimHolder:
        self.begun += 1
        return self.scene.begin(str(self.begun))

    def perform(self) -> None:
        """Perform one operation, mostly a call."""
        self.scene.advance(self.random.choice((0, 0, 60, 1_200, 3_000, 4_000)))
        number = self.random.random()
        for limit, operation in self._operations:
            if number < limit:
                operation(self)
                break
        self._judge_keys()

    # ---- stored jobs -------------------------------------------------------------------------------------

    def _records(self) -> dict[str, JobRecord]:
        return {job.id: job for job in self.scene.storage.get(self.ids) if job is not None}

    def _who(self, key: str, records: dict[str, JobRecord], now: int) -> str | None:
        """Return the id of the job that has the key."""
        taking = self.taken.get(key)
        if taking is None:
            return None
        job = records.get(taking.job_id)
        has = job is not None and has_key(job, self.use, taking.starts, now)
        return taking.job_id if has or now < taking.free_at else None

    def _some(self, *states: State, is_held: bool | None = None) -> JobRecord | None:
        found = [
            job
            for job in self._records().values()
            if job.state in states and is_held in (None, job.session is not None)
        ]
        return self.some(found)

    # ---- operations --------------------------------------------------------------------------------------

    def call(self) -> None:
        """Insert some jobs in one call: some are new, some are duplicates, or all are refused."""
        jobs = [self._new_job() for _ in range(self.random.choice((1, 1, 1, 2, 3)))]
        records, now = self._records(), self.scene.now()
        expected, refuses = self._expected(jobs, records, now)
        self.record(f"call {[(job.id[-4:], job.admission and job.admission.unique) for job in jobs]}"[:300])
        answers = self._stored(jobs)
        if isinstance(answers, DuplicateJob):
            self.record(f"  refused: {answers}")
            assert answers.job_id == refuses, (
                f"a call was refused because of {answers.job_id}, expected {refuses}"
            )
            self._nothing_changed(records)
            return
        self.record(f"  returned {answers}, expected {expected}")
        assert refuses is None, f"a call was not refused, although {refuses} has the key"
        assert [answer if isinstance(answer, Duplicate) else bool(answer) for answer in answers] == expected
        self._judge_changes(jobs, expected, records, now)

    def _stored(self, jobs: list[NewJob]) -> list[bool | Duplicate] | DuplicateJob:
        try:
            return list(self.scene.storage.insert(jobs).is_new)
        except DuplicateJob as error:
            return error

    def _new_job(self) -> NewJob:
        key = self.random.choice(_KEYS)
        now = self.scene.now()
        unique = attrs.evolve(self.use, key=key)
        late = now + HOUR // 2 if self.use.wait is None and self.random.random() < 0.1 else None
        fields: dict[str, object] = {"arguments": f"[{len(self.ids)}]", "created_at": now}
        if self.use.wait is not None:
            fields |= {"state": State.SCHEDULED, "due_at": now + self.use.wait}
        elif self.random.random() < 0.4:
            fields |= {"state": State.SCHEDULED, "due_at": now + HOUR}
        return self.scene.new_job(admission=asks(unique=unique, start_before=late), **fields)

    def _expected(
        self, jobs: list[NewJob], records: dict[str, JobRecord], now: int
    ) -> tuple[list[bool | Duplicate], str | None]:
        """Return the expected results, and the id of the job that causes the whole call to be refused."""
        new: dict[str, str] = {}
        expected: list[bool | Duplicate] = []
        for job in jobs:
            key = _key_of(job)
            who = new.get(key) or self._who(key, records, now)
            if who is None:
                new[key] = job.id
                expected.append(True)
                continue
            holder = records.get(who)
            is_tail = holder is not None and holder.state is State.DELETED and holder.session is not None
            if self.use.raises or is_tail:
                return [], who
            expected.append(Duplicate(who))
        return expected, None

    def _nothing_changed(self, records: dict[str, JobRecord]) -> None:
        assert records == self._records(), "a refused call changed a job"

    def _judge_changes(
        self, jobs: list[NewJob], expected: list[bool | Duplicate], before: dict[str, JobRecord], now: int
    ) -> None:
        self.ids += [job.id for job, answer in zip(jobs, expected, strict=True) if answer is True]
        wanted: dict[str, str] = {}
        moved: set[str] = set()
        for job, answer in zip(jobs, expected, strict=True):
            if not isinstance(answer, Duplicate):
                at_least = now + self.use.at_least if self.use.at_least else 0
                self.taken[_key_of(job)] = _Taking(job.id, 0, at_least, now)
                wanted[job.id] = job.arguments
                continue
            holder = before.get(answer.job_id)
            taking = self.taken[_key_of(job)]
            is_waiting = holder is None or (
                holder.state in (State.AWAITING, State.SCHEDULED, State.ENQUEUED)
                and holder.session is None
                and _starts(holder) == taking.starts
            )
            if is_waiting and (holder is not None or answer.job_id in wanted):
                moved.add(answer.job_id)
                if self.use.keeps_last:
                    wanted[answer.job_id] = job.arguments
        after = self._records()
        for job_id, record in after.items():
            if job_id in wanted:
                assert wanted[job_id] == record.arguments, (
                    f"{job_id[-4:]} has arguments {record.arguments}, expected {wanted[job_id]}"
                )
            elif job_id in before:
                assert before[job_id].arguments == record.arguments
            if job_id in moved and self.use.wait is not None:
                self._judge_due(record, now)
            elif job_id in before:
                assert before[job_id].due_at == record.due_at

    def _judge_due(self, job: JobRecord, now: int) -> None:
        wait, most = self.use.wait or 0, self.use.max_wait
        due_at = now + wait if most is None else min(now + wait, job.created_at + most)
        assert job.due_at is not None
        assert due_at <= job.due_at <= due_at + _MINUTE, (
            f"{job.id[-4:]} is due {job.due_at}, expected {due_at}"
        )

    def claim(self) -> None:
        """Claim some jobs."""
        taken = self.scene.take(self.child, self.random.choice((1, 2)))
        self.record(f"claimed {[one.id[-4:] for one in taken]}")
        late = [one for one in taken if self._is_late(one)]
        self.scene.storage.apply([ends.gives_up(one) for one in late])
        self.held += [one for one in taken if one not in late]

    def _is_late(self, running: Running) -> bool:
        job = running.job
        late = job.admission.start_before if job.admission else None
        return late is not None and late < self.scene.now() and (job.attempt, job.crashes) == (1, 0)

    def end_one(self) -> None:
        """End a run in a random way."""
        running = self.some(self.held)
        if running is None:
            return
        self.held.remove(running)
        expires_at = self.random.choice((None, BASE - DAY))
        how = self.random.choice(("succeeds", "fails", "retries", "retries later", "hands back"))
        self.record(f"{how} {running.id[-4:]}")
        changes: dict[str, Callable[[], Transition]] = {
            "succeeds": lambda: ends.succeeds(running, expires_at=expires_at),
            "fails": lambda: ends.fails(running, expires_at=expires_at),
            "retries": lambda: ends.retries(running),
            "retries later": lambda: ends.retries(running, due_at=self.scene.now() + HOUR),
            "hands back": lambda: ends.hands_back(running),
        }
        self.scene.apply(changes[how]())  # if the job was deleted, this is refused and removes its tail

    def delete(self) -> None:
        """Delete a job; a running job leaves a tail."""
        job = self._some(*State)
        if job is not None:
            self.record(f"delete {job.id[-4:]}")
            self.scene.apply(ends.deletes(job.id, expires_at=self.random.choice((None, BASE - DAY))))

    def requeue(self) -> None:
        """Requeue a job that has ended, which is refused if another job has its key."""
        job = self._some(*_ENDED)
        if job is None or job.admission is None or job.admission.unique is None:
            return
        key, records = job.admission.unique.key, self._records()
        taking = self.taken.get(key)
        who = None
        if taking is not None and taking.job_id != job.id:
            holder = records.get(taking.job_id)
            if holder is not None and has_key(holder, self.use, taking.starts, self.scene.now()):
                who = holder.id
        result = self.scene.apply(ends.requeues(job.id))
        self.record(f"requeue {job.id[-4:]}: {result}, expected holder of its key: {who}")
        assert (result is Applied.TAKEN) == (who is not None), (
            f"requeue returned {result}, holder of the key: {who}"
        )
        if who is None:
            assert result.is_applied
            free_at = taking.free_at if taking is not None else 0
            self.taken[key] = _Taking(job.id, _starts(self.scene.record(job.id)), free_at, self.scene.now())
        else:
            self._nothing_changed(records)

    def lose(self) -> None:
        """End the session, with or without a crash."""
        has_crashed = self.random.random() < 0.5
        self.record(f"the session ends{' by a crash' if has_crashed else ''}")
        self.scene.lose(self.child, running=None if has_crashed else [])
        self.held, self.child = [], self._begin()

    def upkeep(self) -> None:
        """Enqueue the due jobs, and prune the expired ones."""
        self.record("upkeep")
        self.scene.promote(self.random.choice((1, 20)))
        self.scene.prune(self.random.choice((1, 20)))
        self.ids = list(self._records())

    _operations: tuple[tuple[float, Callable[[UniqueOperations], None]], ...] = (
        (0.40, call), (0.56, claim), (0.72, end_one), (0.79, delete), (0.87, requeue), (0.90, lose),
        (1.01, upkeep),
    )  # fmt: skip

    def _judge_keys(self) -> None:
        """Check that the storage reports the holder of each key.

        If the kind of key requires it, at most one job per key is alive.
        """
        records = self._records()
        for key in _KEYS:
            alive = [job.id for job in records.values() if _asks_for(job, key) and self._lives(job)]
            assert len(alive) < 2 or self.use.until in (Until.STARTED, Until.DUE), (
                f"unfinished jobs {alive} all have {key}"
            )
        holders = {state.key: state.job_id for state in self.scene.storage.find_unique()}
        now = self.scene.now()
        for key in _KEYS:
            who = self._who(key, records, now)
            assert who is None or holders.get(key) == who, (
                f"find_unique returns {holders.get(key)} for {key}, expected {who}"
            )

    def _lives(self, job: JobRecord) -> bool:
        late = job.admission.start_before if job.admission else None
        if late is not None and late < self.scene.now() and not _starts(job) and job.session is None:
            return False  # the job must be deleted without a run
        return job.state not in _ENDED or job.session is not None


def _key_of(job: NewJob) -> str:
    assert job.admission is not None
    assert job.admission.unique is not None
    return job.admission.unique.key


def _asks_for(job: JobRecord, key: str) -> bool:
    return job.admission is not None and job.admission.unique is not None and job.admission.unique.key == key
