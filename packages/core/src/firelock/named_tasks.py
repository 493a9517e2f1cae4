"""Tasks by the names that are stored, and jobs of them by texts: what a form, a page or a command needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from firelock.arguments.forms import Parameter, parameters_of, texts_of, typed_arguments
from firelock.errors import UnknownTask
from firelock.options import shown
from firelock.task import TaskInfo, TaskVerbs, task_of
from firelock.threads import in_thread

if TYPE_CHECKING:
    from firelock.client import Client
    from firelock.handle import Job
    from firelock.registry import Registry
    from firelock.serializer import JsonValue

__all__ = ["NamedTasks"]


class NamedTasks:
    """The part of an app that knows tasks by name."""

    registry: Registry
    _client: Client

    def task_named(self, name: str) -> TaskVerbs[Any, Any] | None:
        """Return the registered task of a stored name, an alias included; None where this app has none."""
        info = self.registry.get(name)
        return None if info is None else task_of(self._client, info)

    def parameters(self, name: str) -> list[Parameter]:
        """Return the parameters of a registered task as the fields of a form, in order.

        Raises:
            UnknownTask: no task of the name is registered in this app.
            TaskError: an annotation cannot be used.
        """
        return parameters_of(self.registry.binder(self._info(name)))

    def texts_from_arguments(self, name: str, stored: Mapping[str, JsonValue]) -> dict[str, str]:
        """Return arguments as a job stores them, by name, as the texts of the task's form.

        Left out is what no text stands for, and what is no parameter of the task any more.

        Raises:
            UnknownTask: no task of the name is registered in this app.
            TaskError: an annotation cannot be used.
        """
        return texts_of(self.registry.binder(self._info(name)), stored)

    def arguments_from_text(self, name: str, values: Mapping[str, str]) -> dict[str, object]:
        """Return a form's texts as typed arguments by name, as `fire.recurring.edit` takes them.

        A parameter without a text keeps its default. An empty text is None for an optional parameter, an
        empty text for one that takes text, and else as if there were none.

        Raises:
            UnknownTask: no task of the name is registered in this app.
            FormError: a text cannot be read, a parameter that is needed has none, or a name is unknown.
        """
        return typed_arguments(self.registry.binder(self._info(name)), values)

    def enqueue_text(
        self,
        name: str,
        values: Mapping[str, str],
        *,
        queue: str | None = None,
        priority: int | None = None,
        delay: timedelta | float | None = None,
        tags: Sequence[str] | None = None,
        reason: str | None = None,
    ) -> Job[Any]:
        """A job of a registered task is stored, its arguments read from a form's texts.

        What `arguments_from_text` returns goes through the checks of every enqueue. `reason` is what its
        history says of its creation, for people.

        Raises:
            UnknownTask: no task of the name is registered in this app.
            FormError: see `arguments_from_text`; it is an ArgumentError that names each wrong field.
            ArgumentError, ConfigurationError, ScheduleError: an enqueue would refuse it as well.
            StorageError: nothing was stored.
        """
        info = self._info(name)
        binder = self.registry.binder(info)
        args, kwargs = binder.shape.named_call(typed_arguments(binder, values))
        task = task_of(self._client, info).using(queue=queue, priority=priority, delay=delay, tags=tags)
        return self._client.create(info, task.options, args, kwargs, reason=reason)

    async def aenqueue_text(
        self,
        name: str,
        values: Mapping[str, str],
        *,
        queue: str | None = None,
        priority: int | None = None,
        delay: timedelta | float | None = None,
        tags: Sequence[str] | None = None,
        reason: str | None = None,
    ) -> Job[Any]:
        """Enqueue from texts without blocking the event loop."""
        return await in_thread(
            self.enqueue_text, name, values, queue=queue, priority=priority, delay=delay, tags=tags,
            reason=reason,
        )  # fmt: skip

    def _info(self, name: str) -> TaskInfo:
        info = self.registry.get(name)
        if info is None:
            known = ", ".join(sorted(each.name for each in self.registry)[:20]) or "none"
            message = f"Task {shown(name)} is not registered in this app. Registered: {known}."
            raise UnknownTask(message)
        return info
