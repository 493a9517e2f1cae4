"""`Tester`: apps under test keep their jobs in memory, in a time of their own, and run them when told to."""

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
from firelock.storage import JobFilter
from firelock.task import TaskVerbs
from firelock.testing.enqueued import Enqueued, decoded, expected, find_task, listed
from firelock.testing.faults import FaultyStorage
from firelock.testing.manual_clock import ManualClock
from firelock.testing.private import DirectCommit, DirectResults, PrivateStorage, StillStorage
from firelock.testing.stepped import Drained, SteppedServer

_START = datetime(2030, 1, 1, tzinfo=UTC)
_PAGE = 500


class Tester:
    """Within the block the apps' jobs live in memory, in a time that stands still until `clock` moves it.

    ::

        with Tester(fire) as tester:
            place_order(42)                                   # enqueues
            tester.assert_enqueued(notify, args=(42,))
            assert tester.drain().succeeded == 1              # runs what is due, here and now
            tester.clock.advance(hours=1)                     # and what falls due within an hour

    Jobs run as on a server, one at a time: arguments are encoded and decoded, hooks are asked, retries waited
    for, continuations set free. A job that sleeps is moved on by the clock, one that waits by `signal.send`,
    or by a drain that runs what it called; batches end when their members have. What only a real server does:
    overlapping runs, processes of their own, and timeouts other than by the clock. `within=` is accepted, but
    the job is there at once and a rollback does not take it back; while the transaction is open, code outside
    of it does not see the job, as on a real storage. Declared recurring jobs exist after
    `fire.recurring.sync()`, as ever; the numbers of declared limits hold from the first run on, and the clock
    opens rates as it is moved. Resources are opened for real unless `replaced` has others: async ones for
    each job, the rest once.

    Args:
        apps: one or several that share their jobs; each runs the tasks it has. They have their own storages
            back at the end of the block.
        start: what the clock shows at first, an aware datetime; 2030-01-01 00:00 UTC where left out.
    """

    __test__ = False  # for pytest, by whose conventions the name would be that of tests

    def __init__(self, *apps: Firelock, start: datetime = _START) -> None:
        if not apps:
            raise ConfigurationError("Tester() has no app to test; write Tester(fire).")
        self._apps = apps
        self._start = micros(start)
        self._restore = ExitStack()
        self._is_inline = self._is_raising = False
        self._depth = 0  # of jobs that run inside jobs
        self._errors: list[BaseException] = []

    def __enter__(self) -> Self:
        """The apps use a new, empty storage."""
        self._inside = StillStorage(self._start)
        self._private = PrivateStorage.around(self._inside)
        self._private.on_insert = self._inserted
        self._private.on_signal = self._signalled
        with ExitStack() as taken_over:
            for app in self._apps:
                taken_over.callback(self._take_over(app))
            self._restore = taken_over.pop_all()
        self._server = SteppedServer(self._apps, self._inside)
        self.clock = ManualClock(self._inside, self._server)
        return self

    def _take_over(self, app: Firelock) -> Callable[[], None]:
        """The app uses the private storage; return what gives it its own again."""
        app.load_imports()  # as a server does
        former = app.client.access
        app.client.use(
            StorageAccess(
                self._private,
                StorageClock(self._inside, monotonic=lambda: 0.0),
                DirectCommit(self._private, self._ainserted),
                DirectResults(self._inside),
            )
        )
        return lambda: app.client.use(former)

    @property
    def storage(self) -> FaultyStorage:
        """What the apps use; it can be told to fail."""
        return self._private

    def __exit__(self, *_: object) -> None:
        """The apps have their own storages again."""
        self._server.close_resources()
        self._restore.close()
        self._inside.close()

    # ---- running what is due -----------------------------------------------------------------------------

    def drain(
        self, *, queues: Sequence[str] | None = None, limit: int | None = None, raises: bool = False
    ) -> Drained:
        """Everything due by now has been run in this thread, until nothing is; return what came of it.

        That includes what the jobs enqueue and call, continuations, and retries without a wait. The order is
        that of claims: by priority, then as enqueued.

        Args:
            queues: only these, a later one when the former are empty.
            limit: stop after so many runs.
            raises: the first error of a task ends it and is raised here, the job having been settled.

        Raises:
            AssertionError: there is no limit, and after 5,000 runs there is still more.
        """
        return self._server.drain(queues, limit, raises=raises)

    async def adrain(
        self, *, queues: Sequence[str] | None = None, limit: int | None = None, raises: bool = False
    ) -> Drained:
        """Drain with `async def` tasks on the running loop, `def` tasks in a thread beside it."""
        return await self._server.adrain(queues, limit, raises=raises)

    @contextmanager
    def inline(self, *, raises: bool = True) -> Iterator[None]:
        """Within the block each enqueue runs its job at once, and the continuations that it sets free.

        Scheduled jobs wait for the clock all the same, and so does a job that sleeps or waits for a signal:
        it goes on when the clock is moved, or at once with the signal. What was enqueued before waits for
        `drain`.

        Args:
            raises: what a task raises leaves the outermost enqueue; the job has been settled by then, as a
                retry where it has any left. If False, look at the job's state.
        """
        former = self._is_inline, self._is_raising
        self._is_inline, self._is_raising = True, raises
        try:
            yield
        finally:
            self._is_inline, self._is_raising = former

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
        """Claim one after another what is ready of these jobs and of those that follow from them."""
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
        """A job's error is not that of the job that enqueued it: it leaves the outermost call."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            errors = self._errors
            if self._depth == 0:
                self._errors = []
            for job, record in zip(jobs, self._inside.get([job.id for job in jobs]), strict=True):
                if record is not None:  # the handle that the caller gets shows what has become of it
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
        """The next runs of the task raise the error instead of running; retries follow as ever."""
        self._server.planned.add(self._info_name(task), error, times)

    def lose_server(self, *, queues: Sequence[str] | None = None, after_running: bool = False) -> Job[Any]:
        """The next due job was claimed by a server that died with it: a crash is counted; return its handle.

        It is enqueued again, its attempt given back. `self.storage.fail_next` is for a storage that fails.

        Args:
            queues: only these.
            after_running: the server died after the task ran and before its end was stored, so that the job
                will run twice. Otherwise it died before the task's first line.

        Raises:
            AssertionError: no job is due.
            ConfigurationError: called by a job that is running.
        """
        if self._server.running:
            raise ConfigurationError(
                "A running job cannot lose the server it runs on; call lose_server() from the test."
            )
        job = self._server.next_job(queues)
        if job is None:
            raise AssertionError(f"No job is due that a server could die with. {listed(self.enqueued())}")
        if after_running:
            self._server.run_unsettled(job)
        self._server.lose([job.id])
        return self._apps[0].jobs.get(job.id)

    # ---- what was enqueued -------------------------------------------------------------------------------

    def enqueued(self, task: TaskVerbs[..., Any] | str | None = None) -> list[Enqueued]:
        """Return every job made so far, whatever its state is by now, in the order of their making."""
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
        """A job of the task was made that is all that is given; return those that are.

        Args:
            task: the task or its name.
            args: with `kwargs` the whole call, by position or by name as you like; defaults may be left out.
            kwargs: see `args`.
            queue: the job's queue.
            due_at: the instant it was scheduled for; a timedelta counts from now.
            priority: the job's priority.
            tags: all of these, perhaps others too.
            meta: all of these, perhaps others too.
            count: exactly so many; at least one where left out.

        Raises:
            AssertionError: there is none, or another number; the message lists what was enqueued.
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
        number = "at least 1 job" if count is None else f"{count} job{'' if count == 1 else 's'}"
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
        """No job was made that is all that is given; without a task, none at all.

        Raises:
            AssertionError: there is one.
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
