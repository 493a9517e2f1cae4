"""The tasks of one app by name, each with its binder; a name in a job is looked up here and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from firelock.arguments.signature import Binder, check_tag_templates, compile_binder, make_converter
from firelock.context import JobContext, Snooze
from firelock.errors import DuplicateTask
from firelock.task import TaskInfo

if TYPE_CHECKING:
    from cattrs import Converter

    from firelock.settings import Settings

__all__ = ["Registry"]


class Registry:
    """What an app can enqueue and what its servers can run."""

    def __init__(self, settings: Settings, configure_converter: Callable[[Converter], None]) -> None:
        self._settings = settings
        self._configure_converter = configure_converter
        self._by_name: dict[str, TaskInfo] = {}
        self._aliases: dict[str, TaskInfo] = {}
        self._binders: dict[str, Binder] = {}
        self._converter: Converter | None = None
        self._lock = threading.Lock()

    def register(self, info: TaskInfo) -> None:
        """The task is known by its name and aliases; the same function again, as after a reload, replaces it.

        Raises:
            DuplicateTask: another function has one of the names.
        """
        with self._lock:
            for name in (info.name, *info.aliases):
                other = self._by_name.get(name) or self._aliases.get(name)
                if other is not None and other.place != info.place:
                    message = (
                        f"Task name {name!r} is taken: by {other.place} and now by {info.place}. Rename one, "
                        'or pin a name: @fire.task(name="…").'
                    )
                    raise DuplicateTask(message)
            self._by_name[info.name] = info
            self._aliases.update(dict.fromkeys(info.aliases, info))
            self._binders.pop(info.name, None)

    def get(self, name: str) -> TaskInfo | None:
        """Return the task of a stored name, an alias included; None where unknown."""
        return self._by_name.get(name) or self._aliases.get(name)

    def __iter__(self) -> Iterator[TaskInfo]:
        """Iterate over the tasks in the order in which they were registered."""
        return iter(list(self._by_name.values()))

    def runnable(self) -> list[TaskInfo]:
        """Return the tasks that a server can run: all but remote stubs."""
        return [info for info in self if not info.is_remote]

    def binder(self, info: TaskInfo) -> Binder:
        """Return the task's binder, compiled at its first use.

        Raises:
            TaskError: an annotation cannot be resolved or is not supported.
        """
        binder = self._binders.get(info.name)
        if binder is None:
            settings = self._settings
            binder = compile_binder(
                info.function,
                task=info.name,
                converter=self._converter_once,
                limit=settings.argument_limit,
                warn_at=settings.argument_warning,
                result_limit=settings.result_limit,
                flow_types=(Snooze,),
                context_type=JobContext,
                was_given_context=info.takes_context,
            )
            check_tag_templates(info.tags, binder.parameters)
            self._binders[info.name] = binder
        return binder

    def _converter_once(self) -> Converter:
        with self._lock:
            if self._converter is None:
                converter = make_converter()
                self._configure_converter(converter)
                self._converter = converter  # not before: one that a plugin failed to configure is never used
            return self._converter
