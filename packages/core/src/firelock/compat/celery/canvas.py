"""Celery's calls as values (`task.s(…)`), in sequence (`chain`) and in parallel (`group`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import attrs

from firelock import ConfigurationError
from firelock.compat.celery.async_result import AsyncResult, GroupResult
from firelock.compat.celery.errors import NotMapped
from firelock.compat.celery.refused import CHORD, Refusing

if TYPE_CHECKING:
    from firelock.compat.celery.app import CeleryTask
    from firelock.options import Call

WITH_RESULT: Final = "celery.with_result"
"""The name of the task that runs another task with the result of the parent job as its first argument."""
WITH_RESULT_APART: Final = "celery.with_result_apart"
"""The name of the variant of `WITH_RESULT` for tasks that run in their own process."""
EXPIRES: Final = "celery.expires"  # key in a job's meta: a time, or "+15" for 15 s after its due time
NEVER: Final = "never"


@attrs.frozen
class CelerySignature(Refusing):
    """A call as a value: `task.s(…)`."""

    task: CeleryTask
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    options: Mapping[str, object] = attrs.Factory(dict)
    immutable: bool = False

    def set(self, **options: object) -> CelerySignature:
        """Return the signature with additional options of `apply_async`."""
        return attrs.evolve(self, options={**self.options, **options})

    def clone(
        self, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> CelerySignature:
        """Return the signature with additional arguments; positional ones are put first."""
        return attrs.evolve(self, args=(*args, *self.args), kwargs={**self.kwargs, **(kwargs or {})})

    def delay(self, *args: object, **kwargs: object) -> AsyncResult:
        """Store a job for the call, with additional arguments."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        **options: Any,  # noqa: ANN401 - as for the task
    ) -> AsyncResult:
        """Store a job for the call, with additional arguments and options."""
        call = self if self.immutable else self.clone(args, kwargs)
        return self.task.apply_async(call.args, call.kwargs, **{**self.options, **options})

    def __call__(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401 - the function's own type
        """Run the function directly, without a job."""
        return self.task(*(*args, *self.args), **{**self.kwargs, **kwargs})

    def __or__(self, other: CelerySignature | chain) -> chain:
        """Return a chain of this signature and the other."""
        return chain(self, other)

    def to_call(self, args: Sequence[object], options: Mapping[str, object]) -> Call[Any]:
        """Return the call with additional arguments and options, to be stored together with other calls."""
        call = self if self.immutable else self.clone(args)
        given = self.task.app.options_of(self.task.name, {**self.options, **options})
        return self.task.verbs.using(**given).call(*call.args, **call.kwargs)

    def continuation(self, on: str = "succeeded") -> Callable[[AsyncResult], AsyncResult]:
        """Return a function that stores a job to run after another job has ended in the state `on`.

        A mutable signature receives the result of the other job. All errors are raised here, before the other
        job is stored.
        """
        app = self.task.app
        options = app.options_of(self.task.name, self.options)
        if {"delay", "at"} & options.keys():
            raise NotMapped(
                f"{self} must not have a countdown or an eta, because it follows another task; let that task "
                "enqueue it."
            )
        options["meta"] = options.get("meta") or {EXPIRES: NEVER}  # otherwise the parent's meta is inherited
        verbs = self.task.verbs
        if not self.immutable:
            inspect.signature(self.task.as_function()).bind(None, *self.args, **self.kwargs)
            is_apart = app.runs_apart(self.task)
            with_result = app.fire.task_named(WITH_RESULT_APART if is_apart else WITH_RESULT)
            info = verbs.info
            own = {"queue": info.queue, "priority": info.priority, "timeout": info.timeout_seconds}
            options = {**own, **options, "tags": [f"task:{self.task.name}"]}
            verbs = with_result
        verbs = verbs.using(**options, on=cast("Any", on))
        binder = app.fire.registry.binder(verbs.info)
        binder.encode_text(*self._arguments("unknown yet"), app.fire.client.serializer)

        def store(parent: AsyncResult) -> AsyncResult:
            args, kwargs = self._arguments(parent.id)
            return AsyncResult.of(app, parent.job.then(verbs, *args, **kwargs), parent)

        return store

    def _arguments(self, parent_id: str) -> tuple[tuple[object, ...], Mapping[str, object]]:
        """Return the arguments of the signature's job for a run after the parent job."""
        if self.immutable:
            return self.args, self.kwargs
        return (self.task.name, parent_id, list(self.args), dict(self.kwargs)), {}


def links(
    given: CelerySignature | Iterable[CelerySignature] | None, on: str = "succeeded"
) -> list[Callable[[AsyncResult], AsyncResult]]:
    """Return the functions that store the jobs of `link=` or `link_error=`.

    Raises:
        NotMapped: If a signature would receive the error as an argument.
    """
    signatures = [given] if isinstance(given, CelerySignature) else list(given or ())
    for each in signatures:
        if on == "failed" and not each.immutable:
            raise NotMapped(
                f"link_error={each} cannot receive the error as an argument; use {each.task.name}"
                ".si(…) with the arguments that it needs, or the hook jobs_settled."
            )
    return [each.continuation(on) for each in signatures]


def _links_of(signature: CelerySignature) -> bool:
    return bool({"link", "link_error"} & signature.options.keys())


class chain(Refusing):  # noqa: N801 - Celery's name
    """Tasks in sequence, as continuations; each task receives the result of the previous one."""

    def __init__(self, *tasks: CelerySignature | chain | Iterable[CelerySignature]) -> None:
        self.tasks: list[CelerySignature] = []
        for each in tasks:
            if isinstance(each, group):
                raise NotMapped(f"A group inside a chain is a chord, which has no counterpart: {CHORD}.")
            if isinstance(each, CelerySignature):
                self.tasks.append(each)
            else:
                self.tasks += each.tasks if isinstance(each, chain) else each
        if not self.tasks:
            raise ConfigurationError("A chain must have at least one task.")

    def apply_async(
        self,
        args: Sequence[object] = (),
        *,
        link: CelerySignature | Iterable[CelerySignature] | None = None,
        link_error: CelerySignature | Iterable[CelerySignature] | None = None,
        **options: Any,  # noqa: ANN401 - as for a task
    ) -> AsyncResult:
        """Store a job for each task; return the result of the last one.

        `link` runs after the last task, and `link_error` after each failed task. The other options apply to
        the first task.
        """
        first, *rest = self.tasks
        following, after, failed = (
            [each.continuation() for each in rest],
            links(link),
            links(link_error, "failed"),
        )
        results = [first.apply_async(args, **options)]
        for store in following:
            results.append(store(results[-1]))
        for result in results:
            for store in failed:
                store(result)
        for store in after:
            store(results[-1])
        return results[-1]

    def delay(self, *args: object) -> AsyncResult:
        """Store a job for each task; return the result of the last one."""
        return self.apply_async(args)

    __call__ = delay

    def __or__(self, other: CelerySignature | chain) -> chain:
        """Return this chain with the other signature or chain appended."""
        return chain(self, other)


class group(Refusing):  # noqa: N801 - Celery's name
    """Tasks in parallel, with a job for each task and one result for the group."""

    def __init__(self, *tasks: CelerySignature | chain | Iterable[CelerySignature]) -> None:
        self.tasks: list[CelerySignature | chain] = []
        for each in tasks:
            self.tasks += [each] if isinstance(each, CelerySignature | chain) else list(each)

    def apply_async(self, args: Sequence[object] = (), **options: Any) -> GroupResult:  # noqa: ANN401
        """Store a job for each task, in one call unless a member has links or is a chain."""
        plain = [each for each in self.tasks if isinstance(each, CelerySignature) and not _links_of(each)]
        if not plain or len(plain) < len(self.tasks) or {"link", "link_error"} & options.keys():
            return GroupResult([each.apply_async(args, **options) for each in self.tasks])
        app = plain[0].task.app
        jobs = app.fire.enqueue_many([each.to_call(args, options) for each in plain])
        return GroupResult([AsyncResult.of(app, job) for job in jobs])

    def delay(self, *args: object) -> GroupResult:
        """Store a job for each task."""
        return self.apply_async(args)

    __call__ = delay

    def __or__(self, other: object) -> NoReturn:
        """Raise an error whose message contains the replacement of a chord.

        Raises:
            NotMapped: Always.
        """
        raise NotMapped(f"A task after a group is a chord, which has no counterpart: {CHORD}.")
