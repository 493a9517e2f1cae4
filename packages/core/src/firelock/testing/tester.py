"""`Tester`: the jobs of apps under test are in memory, have their own clock, and run on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from firelock.app import Firelock
from firelock.errors import ConfigurationError
from firelock.jobs.job import Job
from firelock.jobs.storage_access import StorageAccess
from firelock.model.clock import StorageClock, micros
from firelock.model.job import ClaimedJob, JobRecord, NewJob
from firelock.model.meta import NO_META
from firelock.model.text import number_of
from firelock.storage import JobFilter
from firelock.task import TaskVerbs
from firelock.testing.enqueued import Enqueued, decoded, expected, find_task, listed
from firelock.testing.faults import FaultyStorage
from firelock.testing.manual_clock import ManualClock
from firelock.testing.manual_server import Drained, ManualServer
from firelock.testing.private import DirectCommit, DirectResults, PrivateStorage, StillStorage

_START = datetime(2030, 1, 1, tzinfo=UTC)
_PAGE = 500


class Tester:
    """A context in which the apps' jobs are in memory, and only `clock` advances the time.

    ::

        with Tester(fire) as tester:
            place_order(42)                                   # enqueues
            tester.assert_enqueued(notify, args=(42,))
            assert tester.drain().succeeded == 1              # runs the due jobs in this thread
            tester.clock.advance(hours=1)                     # runs the jobs due within the next hour

    Jobs run one at a time, but otherwise as on a server: arguments are encoded and decoded, hooks are called,
    retries wait for their delay, and continuations are released. A job that sleeps continues when the clock
    is moved. A job that waits continues after `signal.send`, or when a drain has run the jobs that it called.
    A batch ends when its members have ended.

    Only a real server has overlapping runs, job processes, and timeouts in real time.

    `within=` is accepted, but the job is stored immediately, and a rollback does not remove it. While the
    transaction is open, code outside of it does not find the job, as with a real storage.

    As always, declared recurring jobs exist after `fire.recurring.sync()`. The settings of declared limits
    apply from the first run on, and rate limits use the tester's clock. Real resources are opened unless
    `replaced` supplies others: async resources are opened for each job, all others once.

    Args:
        apps: one app, or several apps that share their jobs; each app runs its own tasks. The apps get their
            own storages back at the end of the block.
        start: the initial time of the clock, an aware datetime; by default 2030-01-01 00:00 UTC.
    """

    __test__ = False  # otherwise pytest would collect this class because of its name

    def __init__(self, *apps: Firelock, start: datetime = _START) -> None:
        if not apps:
            raise ConfigurationError("Tester() needs at least one app; use Tester(fire).")
        self._apps = apps
        self._start = micros(start)
        self._restore = ExitStack()
        self._is_inline = self._is_raising = False
        self._depth = 0  # the nesting depth of jobs that run inside other jobs
        self._errors: list[BaseException] = []

    def __enter__(self) -> Self:
        """Give the apps a new, empty storage."""
        self._inside = StillStorage(self._start)
        self._private = PrivateStorage.around(self._inside)
        self._private.on_insert = self._inserted
        self._private.on_signal = self._signalled
        with ExitStack() as taken_over:
            for app in self._apps:
                taken_over.callback(self._take_over(app))
            self._restore = taken_over.pop_all()
        self._server = ManualServer(self._apps, self._inside)
        self.clock = ManualClock(self._inside, self._server)
        return self

    def _take_over(self, app: Firelock) -> Callable[[], None]:
        """Make the app use the private storage; return a function that restores the app's own storage."""
        app.load_imports()  # a server does this when it starts
        previous = app.client.access
        app.client.use(
            StorageAccess(
                self._private,
                StorageClock(self._inside, monotonic=lambda: 0.0),
                DirectCommit(self._private, self._ainserted),
                DirectResults(self._inside),
            )
        )
        return lambda: app.client.use(previous)

    @property
    def storage(self) -> FaultyStorage:
        """The storage that the apps use, which can be made to fail."""
        return self._private

    def __exit__(self, *_: object) -> None:
        """Restore the apps' own storages."""
        self._server.close_resources()
        self._restore.close()
        self._inside.close()

    # ---- running jobs ------------------------------------------------------------------------------------

    def drain(
        self, *, queues: Sequence[str] | None = None, limit: int | None = None, raises: bool = False
    ) -> Drained:
        """Run all due jobs in this thread until no job is due; return the number of attempts by result.

        This includes the jobs that these jobs enqueue and call, continuations, and retries without a delay.
        Jobs run in the order of claims: by priority, then in the order in which they were enqueued.

        Args:
            queues: the queues whose jobs are run; jobs of a queue run when the queues before it are empty.
            limit: the maximum number of runs.
            raises: whether to stop at the first error of a task and raise it, after its job was settled.

        Raises:
            AssertionError: If no limit is given, and more jobs are due after 5,000 runs.
        """
        return self._server.drain(queues, limit, raises=raises)

    async def adrain(
        self, *, queues: Sequence[str] | None = None, limit: int | None = None, raises: bool = False
    ) -> Drained:
        """Do the same as `drain`, with `async def` tasks on the running loop and `def` tasks in a thread."""
        return await self._server.adrain(queues, limit, raises=raises)

    @contextmanager
    def inline(self, *, raises: bool = True) -> Iterator[None]:
        """Within the block, run each job as soon as it is enqueued, and the continuations that it releases.

        Scheduled jobs still wait for the clock. A job that sleeps continues when the clock is moved. A job
        that waits for a signal continues as soon as the signal is sent, or when the clock reaches its
        timeout. Jobs that were enqueued before the block wait for `drain`.

        Args:
            raises: whether the outermost enqueue raises the error of a task. By then the job has been
                settled, as a retry if one is left. If False, check the job's state instead.
        """
        previous = self._is_inline, self._is_raising
        self._is_inline, self._is_raising = True, raises
        try:
            yield
        finally:
            self._is_inline, self._is_raising = previous

    def _inserted(self, jobs: Sequence[NewJob]) -> None:
        if self._is_inline:
            with self._nested(jobs):
                for job in self._ready([job.id for job in jobs]):
                    self._note(self._server.run(job))

    def _signalled(self, ids: Sequence[str]) -> None:
        if self._is_inline:
            with self._nested(()):
                for job in self._ready(ids):
                    self._note(self._server.run(job))

    async def _ainserted(self, jobs: Sequence[NewJob]) -> None:
        if self._is_inline:
            with self._nested(jobs):
                for job in self._ready([job.id for job in jobs]):
                    self._note(await self._server.arun(job))

    def _ready(self, jobs: Sequence[str]) -> Iterator[ClaimedJob]:
        """Claim, one after another, the given jobs that are ready and the jobs that they release."""
        while True:
            ids = list(jobs)
            ids += [child for job_id in ids for child in self._inside.followers(job_id)]
            claims = (self._server.claim_only(job_id) for job_id in ids)
            job = next((claimed for claimed in claims if claimed is not None), None)
            if job is None:
                return
            yield job

    def _note(self, came_of_it: tuple[Drained, BaseException | None]) -> None:
        _, error = came_of_it
        if error is not None:
            self._errors.append(error)

    @contextmanager
    def _nested(self, jobs: Sequence[NewJob]) -> Iterator[None]:
        """Raise a job's error from the outermost call, not in the job that enqueued the failed job."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            errors = self._errors
            if self._depth == 0:
                self._errors = []
            for job, record in zip(jobs, self._inside.get([job.id for job in jobs]), strict=True):
                if record is not None:  # show the result in the caller's handle
                    job.state, job.reason, job.due_at = record.state, record.reason, record.due_at
        if errors and self._depth == 0 and self._is_raising:
            raise errors[0]

    # ---- failures ----------------------------------------------------------------------------------------

    def fail_next(
        self,
        task: TaskVerbs[..., Any] | str,
        error: BaseException | type[BaseException],
        *,
        times: int = 1,
    ) -> None:
        """Make the next runs of the task raise the error instead of calling its function; retry as usual."""
        self._server.planned.add(self._info_name(task), error, times)

    def lose_server(self, *, queues: Sequence[str] | None = None, after_running: bool = False) -> Job[Any]:
        """Claim the next due job for a server that then dies, as in a crash; return the job's handle.

        The job is enqueued again, and its attempt does not count. To make the storage fail, use
        `self.storage.fail_next`.

        Args:
            queues: the queues from which a job is claimed; by default all.
            after_running: whether the server dies after the task has run and before its result is stored, so
                that the job runs twice. Otherwise the server dies before the task's first line.

        Raises:
            AssertionError: If no job is due.
            ConfigurationError: If a running job calls this method.
        """
        if self._server.running:
            raise ConfigurationError(
                "lose_server() must not be called by a running job; call it from the test."
            )
        job = self._server.next_job(queues)
        if job is None:
            raise AssertionError(f"lose_server() needs a due job, but none is due. {listed(self.enqueued())}")
        if after_running:
            self._server.run_unsettled(job)
        self._server.lose([job.id])
        return self._apps[0].jobs.get(job.id)

    # ---- enqueued jobs -----------------------------------------------------------------------------------

    def enqueued(self, task: TaskVerbs[..., Any] | str | None = None) -> list[Enqueued]:
        """Return all jobs created so far, in any state, in the order of creation."""
        records = self._records(None if task is None else self._info_name(task))
        return [decoded(self._app_of(record.task), record) for record in records]

    def assert_enqueued(
        self,
        task: TaskVerbs[..., Any] | str,
        *,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        queue: str | None = None,
        due_at: datetime | timedelta | None = None,
        priority: int | None = None,
        tags: Sequence[str] = (),
        meta: Mapping[str, str] = NO_META,
        count: int | None = None,
    ) -> list[Enqueued]:
        """Check that a job of the task with all given values was created; return the matching jobs.

        Args:
            task: the task or its name.
            args: together with `kwargs`, the whole call, by position or by name; defaults may be left out.
            kwargs: see `args`.
            queue: the job's queue.
            due_at: the time for which the job was scheduled; a timedelta counts from now.
            priority: the job's priority.
            tags: tags that the job must have; it may have others too.
            meta: entries that the job's meta must have; it may have others too.
            count: the exact number of matching jobs; by default at least one.

        Raises:
            AssertionError: If no job matches, or the number differs. The message lists the enqueued jobs.
        """
        __tracebackhide__ = True
        found, wanted = self._matching(
            task,
            args=args,
            kwargs=kwargs,
            queue=queue,
            due_at=due_at,
            priority=priority,
            tags=tags,
            meta=meta,
        )
        if len(found) == count or (count is None and found):
            return found
        number = "at least 1 job" if count is None else number_of(count, "job")
        raise AssertionError(f"Expected {number}, found {len(found)}:\n  {wanted}\n{listed(self.enqueued())}")

    def refute_enqueued(
        self,
        task: TaskVerbs[..., Any] | str | None = None,
        *,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        queue: str | None = None,
        due_at: datetime | timedelta | None = None,
        priority: int | None = None,
        tags: Sequence[str] = (),
        meta: Mapping[str, str] = NO_META,
    ) -> None:
        """Check that no job with all given values was created; without a task, that no job was created.

        Raises:
            AssertionError: If such a job was created.
        """
        __tracebackhide__ = True
        if task is None:
            found, wanted = self.enqueued(), "any job"
        else:
            found, wanted = self._matching(
                task,
                args=args,
                kwargs=kwargs,
                queue=queue,
                due_at=due_at,
                priority=priority,
                tags=tags,
                meta=meta,
            )
        if found:
            raise AssertionError(f"Expected no job, found {len(found)}:\n  {wanted}\n{listed(found)}")

    def _matching(
        self, task: TaskVerbs[..., Any] | str, *, args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None, queue: str | None, due_at: datetime | timedelta | None,
        priority: int | None, tags: Sequence[str], meta: Mapping[str, str],
    ) -> tuple[list[Enqueued], str]:  # fmt: skip
        app = self._app_of(task if isinstance(task, str) else task.name)
        info = find_task(app, task)
        wanted = expected(
            app, info, args=args, kwargs=kwargs, queue=queue, due_at=due_at, priority=priority, tags=tags,
            meta=meta, now=self._inside.clock(),
        )  # fmt: skip
        found = [decoded(app, record) for record in self._records(info.name) if wanted.fits(app, record)]
        return found, str(wanted)

    def _app_of(self, task: str) -> Firelock:
        return next((app for app in self._apps if app.registry.get(task) is not None), self._apps[0])

    def _info_name(self, task: TaskVerbs[..., Any] | str) -> str:
        return find_task(self._app_of(task if isinstance(task, str) else task.name), task).name

    def _records(self, task: str | None) -> list[JobRecord]:
        records: list[JobRecord] = []
        cursor: str | None = None
        while True:
            where = JobFilter(task=task)
            page = self._inside.find(where, limit=_PAGE, cursor=cursor, oldest_first=True)
            records += page.jobs
            cursor = page.cursor
            if cursor is None:
                return records
