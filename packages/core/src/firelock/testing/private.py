"""The storage of a `Tester`: private, in memory, with a clock that only tests move."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import attrs

from firelock.errors import JobNotFound
from firelock.jobs.group_commit import GroupCommit
from firelock.jobs.results import Observation, Results, reads
from firelock.model.answers import Duplicate, Inserted
from firelock.model.job import ClaimedJob, JobFilter, JobRecord, NewJob, Transition
from firelock.model.limit import UniqueUse
from firelock.model.memo import NewMemo, Remembered
from firelock.model.record import RecordChange
from firelock.storage import Applied, Feature, Storage, rules
from firelock.storage.keyed_tables import take_one
from firelock.storage.memory import MemoryStorage
from firelock.testing.faults import FaultyStorage
from firelock.testing.uncommitted import Uncommitted, check_transaction


class StillStorage(MemoryStorage):
    """An in-memory storage whose clock is moved only by `clock_offset`.

    In each call of a verb that enqueues jobs, the clock is one microsecond ahead of the previous call. So
    jobs that are enqueued at the same time keep their order, and a requeued job comes after the others.
    """

    features = MemoryStorage.features | {Feature.TRANSACTIONAL_ENQUEUE}

    def __init__(self, start: int) -> None:
        super().__init__()
        self._start = start
        self._ticks = self._shown_ticks = 0

    def clock(self) -> int:
        """See `Storage.clock`."""
        self._open()
        return self._start + self.clock_offset + self._shown_ticks

    @contextmanager
    def _tick(self) -> Iterator[None]:
        with self._open():
            self._ticks += 1
            self._shown_ticks = self._ticks
            try:
                yield
            finally:
                self._shown_ticks = 0

    def insert(
        self, jobs: Sequence[NewJob], *, within: object | None = None, only_if: RecordChange | None = None
    ) -> Inserted:
        """See `Storage.insert`; a transaction is accepted but ignored, so the jobs are stored immediately."""
        del within
        with self._tick():
            inserted = super().insert(jobs, only_if=only_if)
            for job, answer in zip(jobs, inserted.is_new, strict=True):
                if isinstance(answer, Duplicate) and job.admission is not None:
                    self._put_off(answer.job_id, job.admission.unique)
            return inserted

    def _put_off(self, job_id: str, use: UniqueUse | None) -> None:
        """Remove this call's tick from the due time of a debounced job that the call has deferred."""
        with self._open() as store:
            row = store.table.rows.get(job_id)
            wait = None if use is None else use.wait
            if row is not None and wait is not None and row.record.due_at == self.clock() + wait:
                due_at = row.record.due_at - self._shown_ticks
                store.table.put(attrs.evolve(row, record=attrs.evolve(row.record, due_at=due_at)))

    def apply(self, transitions: Sequence[Transition], *, within: object | None = None) -> list[Applied]:
        """See `Storage.apply`; as in `insert`, the changes take effect immediately."""
        del within
        with self._tick():
            return super().apply(transitions)

    def remember(self, memos: Sequence[NewMemo], *, within: object | None = None) -> list[Remembered]:
        """See `Storage.remember`; as in `insert`, the memos are stored immediately."""
        del within
        with self._tick():
            return super().remember(memos)

    def release(self, limit: int) -> int:
        """See `Storage.release`."""
        with self._tick():
            return super().release(limit)

    def claim_only(self, job_id: str, session: str, now: int) -> ClaimedJob | None:
        """Claim this job for the session out of turn; return None if the job cannot be claimed now."""
        with self._open() as store:
            living, row = store.table.living(session), store.table.rows.get(job_id)
            if row is None or living is None or not row.is_ready:  # a duplicate has no row
                return None
            if store.table.is_paused(row.record.queue):
                return None
            if row.lane is not None and take_one(store.table, row, now=self.clock()) is None:
                return None  # its limits do not allow the job to run
            name = living.session.server
            claimed = rules.claimed_by(row, session, name, now=now)
            store.table.put(claimed)
            return claimed.claimed()

    def followers(self, job_id: str) -> list[str]:
        """Return the ids of the jobs that might continue because of this job, in the order of creation.

        These are its direct and indirect continuations, the members of a batch that it opens, its batch and
        its caller, and the jobs that these in turn release.
        """
        with self._open() as store:
            found: dict[str, None] = {}
            to_visit = [(job_id, False)]
            while to_visit:
                one, has_members = to_visit.pop(0)
                row = store.table.rows.get(one)
                relations = None if row is None else row.record.relations
                around = () if relations is None else (relations.batch_id, relations.caller_id)
                below = [child.record.id for child in store.table.children(one)]
                if has_members and relations is not None and relations.batch is not None:
                    where = JobFilter(batch_id=one)
                    below += [each.id for each in self.find(where, limit=_MEMBERS, oldest_first=True).jobs]
                for other, is_below in [(each, True) for each in below] + [(each, False) for each in around]:
                    if other is not None and other != job_id and other not in found:
                        found[other] = None
                        to_visit.append((other, is_below))
            return list(found)


_MEMBERS = 1_000


class PrivateStorage(FaultyStorage):
    """The storage of an app under test: a `StillStorage` that can be made to fail and reports new jobs."""

    on_insert: Callable[[Sequence[NewJob]], None]
    on_signal: Callable[[Sequence[str]], None]

    def __init__(self, inside: Storage) -> None:
        super().__init__(inside)
        self._uncommitted = Uncommitted(inside.get)

    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """See `Storage.get`; jobs of open transactions are not found."""
        records = self.pass_on("get", ids)
        assert isinstance(records, list)
        return [
            None if record is None or self._uncommitted.is_hidden(record.id) else record for record in records
        ]

    def apply(self, transitions: Sequence[Transition], *, within: object | None = None) -> list[Applied]:
        """See `Storage.apply`; jobs of other open transactions are not found."""
        is_hidden = [self._uncommitted.is_hidden(change.job_id, within) for change in transitions]
        shown = [change for change, hidden in zip(transitions, is_hidden, strict=True) if not hidden]
        applied = self.pass_on("apply", shown, within=within)
        assert isinstance(applied, list)
        answers = iter(applied)
        return [Applied.MISSING if hidden else next(answers) for hidden in is_hidden]

    def remember(self, memos: Sequence[NewMemo], *, within: object | None = None) -> list[Remembered]:
        """See `Storage.remember`; memos from outside of jobs are reported, as jobs might wait for them."""
        if within is not None:
            check_transaction(within)
        is_hidden = [self._uncommitted.is_hidden(memo.job_id, within) for memo in memos]
        shown = [memo for memo, hidden in zip(memos, is_hidden, strict=True) if not hidden]
        remembered = self.pass_on("remember", shown, within=within)
        assert isinstance(remembered, list)
        if sent := [memo.job_id for memo in shown if memo.session is None]:
            self.on_signal(sent)
        answers = iter(remembered)
        return [Remembered(Applied.MISSING, None) if hidden else next(answers) for hidden in is_hidden]

    def insert(
        self, jobs: Sequence[NewJob], *, within: object | None = None, only_if: RecordChange | None = None
    ) -> Inserted:
        """See `Storage.insert`."""
        answer = self.store(jobs, within=within, only_if=only_if)
        self.on_insert(jobs)
        return answer

    def store(
        self, jobs: Sequence[NewJob], *, within: object | None = None, only_if: RecordChange | None = None
    ) -> Inserted:
        """Store the jobs without reporting them.

        Raises:
            ConfigurationError: If `within` is not a transaction.
            JobNotFound: If a parent or batch is stored in another transaction that is still open.
        """
        if within is not None:
            check_transaction(within)
        self._check_relations(jobs, within)
        answer = self.pass_on("insert", jobs, within=within, only_if=only_if)
        assert isinstance(answer, Inserted)
        self._uncommitted.keep((job for job, new in zip(jobs, answer.is_new, strict=True) if new), within)
        return answer

    def _check_relations(self, jobs: Sequence[NewJob], within: object | None) -> None:
        own = {job.id for job in jobs}
        for job in jobs:
            related = [edge.parent_id for edge in job.parents]
            if job.relations is not None and job.relations.batch_id is not None:
                related.append(job.relations.batch_id)
            for one in related:
                if one not in own and self._uncommitted.is_hidden(one, within):
                    raise JobNotFound(
                        f"Job {job.id} refers to job {one}, which is not stored. Nothing was stored."
                    )


class DirectCommit(GroupCommit):
    """A group commit that stores each job in the awaiting coroutine, not in a thread that collects jobs."""

    def __init__(
        self, storage: PrivateStorage, on_insert: Callable[[Sequence[NewJob]], Awaitable[None]]
    ) -> None:
        super().__init__(storage)
        self._private = storage
        self._on_insert = on_insert

    async def insert(self, job: NewJob) -> bool | Duplicate:
        """Store the job; return the result."""
        answer = self._private.store((job,)).is_new[0]
        await self._on_insert((job,))
        return answer


class DirectResults(Results):
    """Results that are read only once, because no job can end while a test waits.

    The app's own results are polled in a thread.
    """

    def __init__(self, storage: StillStorage) -> None:
        super().__init__(storage)
        self._still = storage

    def wait_for(self, job_id: str) -> Future[Observation]:
        """Return a completed future with the observation of a job that has ended, otherwise with an error."""
        future: Future[Observation] = Future()
        began, record = next(reads), self._still.get((job_id,))[0]
        if record is None or record.is_final:
            future.set_result(Observation(began, record))
        else:
            message = (
                f"Job {job_id} ({record.task}) is {record.state}, and no server runs it while you wait. Call "
                "tester.drain() or tester.clock.advance(…) before result()."
            )
            future.set_exception(AssertionError(message))
        return future
