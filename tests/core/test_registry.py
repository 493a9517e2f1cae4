"""The tasks of one app by name: what can be enqueued here, and what a server here can run."""

from __future__ import annotations

import attrs
import pytest

from firelock.errors import ArgumentError, TaskError
from firelock.settings import Settings
from firelock.task import Registry, task_info


@pytest.fixture
def registry():
    """An empty registry whose converter nobody configures."""
    return Registry(Settings(), lambda converter: None)


def send(to: str): ...


def receive(sender: str): ...


def info(function=send, name="mail.send", **options):
    """A function's registration."""
    return task_info(function, name=name, options=options)


def test_a_task_is_found_by_its_name_and_aliases(registry):
    """Names stored with old jobs lead to the task of today."""
    task = info(aliases=("mail.old", "mail.older"))

    registry.register(task)

    assert [task] * 3 == [registry.get(name) for name in ("mail.send", "mail.old", "mail.older")]
    assert [task] == list(registry)


def test_a_name_that_nobody_registered_leads_nowhere(registry):
    """A name is looked up, never imported."""
    assert [None, None] == [registry.get("os.system"), registry.get("builtins.eval")]


def test_a_stub_is_not_run_here(registry):
    """A remote task can be enqueued, not run."""
    registry.register(info(is_remote=True))
    registry.register(info(receive, "mail.receive"))

    assert ["mail.receive"] == [task.name for task in registry.runnable()]


def test_the_same_function_again_replaces_itself(registry):
    """A module that is imported twice, or reloaded, registers its tasks twice: the later one counts."""
    registry.register(info())
    later = info(queue="bulk")

    registry.register(later)

    assert [later] == list(registry)
    assert "bulk" == registry.get("mail.send").queue


# ---- binders ---------------------------------------------------------------------------------------------


def test_a_binder_is_compiled_once(registry):
    """The first use compiles, later ones find it; a replaced task gets a new one."""
    task = info()
    registry.register(task)
    binder = registry.binder(task)

    again = registry.binder(task)
    registry.register(task)
    renewed = registry.binder(task)

    assert binder is again
    assert binder is not renewed


def test_the_limits_are_those_of_the_settings():
    """What an app may store is set once, for all its tasks."""
    registry = Registry(
        Settings(argument_limit=100, argument_warning=90, result_limit=80), lambda converter: None
    )

    binder = registry.binder(info())

    assert (100, 90, 80) == (binder.limit, binder.warn_at, binder.result_limit)


def test_tags_may_name_only_parameters(registry):
    """A template that names none of the task's parameters is refused when the task is first used."""
    task = info(tags=("user:{user_id}",))

    with pytest.raises(TaskError, match="names 'user_id'"):
        registry.binder(task)


@attrs.frozen
class Money:
    """A type that the converter knows only from a plugin."""

    cents: int


def pay(amount: Money): ...


def test_the_converter_is_configured_once():
    """However many tasks need it, plugins have their turn once an app."""
    turns = []
    registry = Registry(Settings(), turns.append)

    for name in ("one", "two"):
        registry.binder(info(pay, name)).encode((Money(5),), {})

    assert 1 == len(turns)


def test_a_converter_that_could_not_be_configured_is_never_used():
    """An exception of a plugin is met again by the next call: nothing is stored by half a converter."""

    def refuse(converter):
        raise RuntimeError("no such currency")

    registry = Registry(Settings(), refuse)

    for _ in range(2):
        with pytest.raises((RuntimeError, ArgumentError), match="no such currency"):
            registry.binder(info(pay, "pay")).encode((Money(5),), {})
