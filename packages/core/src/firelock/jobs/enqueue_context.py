"""Create jobs inside the contexts that plugins return from `enqueue_context`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from firelock.jobs.client import Client, each_positional
from firelock.model.meta import NO_META
from firelock.options import Call, CallOptions, TaskInfo
from firelock.plugins.hookspecs import TaskCall

if TYPE_CHECKING:
    from firelock.jobs.job import Job
    from firelock.model.job import ClaimedJob, NewJob


class WrappedClient(Client):
    """The client of an app whose plugins implement `enqueue_context`; other apps use the faster `Client`."""

    def create(
        self,
        call: Call[Any],
        reason: str | None = None,
        *,
        parent_id: str | None = None,
        inherited: Mapping[str, str] = NO_META,
    ) -> Job[Any]:
        """See `Client.create`."""
        with self._contexts((call,), inherited):
            return super().create(call, reason, parent_id=parent_id, inherited=inherited)

    async def acreate(
        self,
        call: Call[Any],
        reason: str | None = None,
        *,
        parent_id: str | None = None,
        inherited: Mapping[str, str] = NO_META,
        batch_id: str | None = None,
    ) -> Job[Any]:
        """See `Client.acreate`."""
        with self._contexts((call,), inherited):
            return await super().acreate(
                call, reason, parent_id=parent_id, inherited=inherited, batch_id=batch_id
            )

    def called_jobs(self, calls: Sequence[Call[Any]], caller: ClaimedJob) -> list[NewJob]:
        """See `Client.called_jobs`."""
        with self._contexts(calls, caller.meta) as created:
            created.extend(super().called_jobs(calls, caller))
            return created

    def new_child(
        self,
        parent_id: str,
        call: Call[Any],
        meta: Mapping[str, str],
        transaction: Callable[[], object | None],
    ) -> NewJob:
        """See `Client.new_child`."""
        with self._contexts((call,), meta) as created:
            created.append(super().new_child(parent_id, call, meta, transaction))
            return created[0]

    def new_members(self, calls: Sequence[Call[Any]], batch_id: str) -> list[Sequence[NewJob]]:
        """See `Client.new_members`."""
        if not calls:
            return []
        with self._contexts(calls) as created:
            runs = super().new_members(calls, batch_id)
            created.extend(job for run in runs for job in run)
            return runs

    def create_members(self, calls: Sequence[Call[Any]], batch_id: str) -> list[Job[Any]]:
        """See `Client.create_members`."""
        if not calls:
            return []
        with self._contexts(calls):
            return super().create_members(calls, batch_id)

    def create_many(self, calls: Sequence[Call[Any]]) -> list[Job[Any]]:
        """See `Client.create_many`."""
        if not calls:
            return []
        with self._contexts(calls):
            return super().create_many(calls)

    def create_alike(
        self, info: TaskInfo, options: CallOptions, calls: Iterable[Sequence[object]]
    ) -> list[Job[Any]]:
        """See `Client.create_alike`."""
        return self.create_many([Call(info, options, args, {}) for args in each_positional(calls)])

    @contextmanager
    def _contexts(
        self, calls: Sequence[Call[Any]], inherited: Mapping[str, str] = NO_META
    ) -> Iterator[list[NewJob]]:
        """Enter the contexts of the plugins; yield a list for jobs that are built now and stored later."""
        created: list[NewJob] = []
        task = calls[0].info if len({call.info.name for call in calls}) == 1 else None
        described = [TaskCall(call.info.name, call.args, call.kwargs, call.options.given()) for call in calls]
        refusal: BaseException | None = None
        with ExitStack() as contexts:
            for context in self.plugins.enqueue_contexts(task, described, inherited, created):
                contexts.enter_context(context)
            try:
                yield created
            except BaseException as error:
                refusal = error
                raise
        if refusal is not None:  # a context suppressed the error, but there is no job to return
            raise refusal
