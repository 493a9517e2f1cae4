"""Calls in JSON, checked against a task's annotations or, without the code, against their outline."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, Literal
from uuid import UUID

import attrs
import pytest

from firelock import Firelock, Limit, ParameterOutline, Turns, Unique
from firelock.arguments.outline import call_of_json, outline_of, stub_of
from firelock.control.catalogue import publish_tasks
from firelock.errors import ArgumentError, SignatureMismatch, UnknownTask


class Colour(enum.Enum):
    """An enum whose members are stored by value."""

    RED = "red"
    BLUE = "blue"


class Rights(enum.Flag):
    """A flag enum; combinations of its members are also values, so the members are not all choices."""

    READ = 1
    WRITE = 2


@attrs.frozen
class Point:
    """A value that is entered as JSON."""

    x: int


def anything(  # noqa: PLR0917 - one of each
    day: date,
    colour: Colour,
    size: Literal[1, 2, None] = None,
    point: Point | None = None,
    rights: Rights = Rights.READ,
    items: Sequence[int] = (),
    pairs: tuple[int, ...] = (),
    notes: dict[str, str] | None = None,
    either: int | str = 1,
    *more: float,
    within: timedelta = timedelta(1),
    plain=None,
    **rest: bool,
):
    """Accept one parameter of each kind."""


def small(a: int, b: str | None = None, *, c: UUID | None = None):
    """Accept a few parameters."""


def binder_of(function):
    """Return the binder of a task made from `function`."""
    with Firelock("memory://") as fire:
        return fire.registry.binder(fire.task(name="t")(function).info)


@pytest.fixture(params=["code", "outline"])
def binder(request):
    """Return the binder of `small`, created from its code or from its outline."""
    own = binder_of(small)
    return own if request.param == "code" else binder_of(stub_of("small", outline_of(own)))


def test_outline_contains_types_and_choices():
    """An outline shows the names of types that are stored as strings, and the stored values of choices.

    Enums and Literals are choices. Classes are shown as `any`.
    """
    outlines = {one.name: one for one in outline_of(binder_of(anything))}

    assert {
        "day": "date", "colour": "any", "size": "any", "point": "any", "rights": "any", "items": "any",
        "pairs": "list", "notes": "dict", "either": "any", "within": "timedelta", "plain": "any",
        "*more": "list", "**rest": "dict",
    } == {name: one.type for name, one in outlines.items()}  # fmt: skip
    assert {"colour": ("red", "blue"), "size": (1, 2)} == {
        name: one.choices for name, one in outlines.items() if one.choices
    }
    assert {"day", "colour"} == {name for name, one in outlines.items() if one.is_required}
    assert {"size", "point", "notes"} == {name for name, one in outlines.items() if one.is_optional}
    assert {"within", "plain"} == {name for name, one in outlines.items() if one.is_keyword_only}


@pytest.mark.parametrize(
    ("arguments", "stored"),
    [
        ({"a": 1}, {"a": 1}),
        ([1, "x"], {"a": 1, "b": "x"}),
        ({"a": 1, "b": None, "c": "12345678-1234-5678-1234-567812345678"},
         {"a": 1, "b": None, "c": "12345678-1234-5678-1234-567812345678"}),
    ],
)  # fmt: skip
def test_values_are_stored_in_the_same_form_as_by_the_task(binder, arguments, stored):
    """Arguments are passed by name or by position.

    Omitted arguments are not stored, so the run uses its own defaults.
    """
    args, kwargs = call_of_json(binder, arguments)

    assert stored == binder.encode(args, kwargs)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, SignatureMismatch, "was called without 'a'"),
        ({"a": 1, "bb": "x"}, SignatureMismatch, "has no parameter 'bb'. Did you mean 'b'?"),
        ([1, "x", "y"], SignatureMismatch, "takes 2 positional arguments, but 3 were given"),
        ({"a": "1"}, ArgumentError, "Argument 'a' of small: str where int is annotated"),
        ({"a": True}, ArgumentError, "Argument 'a' of small: bool where int is annotated"),
        ({"a": 1, "c": "x"}, ArgumentError, "Argument 'c' of small: .*badly formed"),
        ("x", ArgumentError, "must be an object by name or a list in order, got 'x'"),
    ],
)
def test_call_that_does_not_fit_the_outline_is_refused(binder, arguments, error, message):
    """The error messages are the same whether or not the process has the task's code."""
    with pytest.raises(error, match=message):
        call_of_json(binder, arguments)


def test_stub_checks_choices_and_leaves_other_checks_to_the_server():
    stub = binder_of(stub_of("anything", outline_of(binder_of(anything))))
    call: dict[str, Any] = {
        "day": "2026-11-24", "colour": "red", "point": {"x": 1}, "notes": {"a": "b"}, "within": "PT5S",
        "more_": 1,
    }  # fmt: skip

    args, kwargs = call_of_json(stub, call)

    assert {**{name: value for name, value in call.items() if name != "more_"}, "**rest": {"more_": 1}} == (
        stub.encode(args, kwargs)
    )
    with pytest.raises(ArgumentError, match=r"'colour'.*Literal\['red', 'blue'\]"):
        call_of_json(stub, {**call, "colour": "green"})


def test_outlines_are_stored_in_the_catalogue():
    """The server stores the outlines, and processes without the code read them."""
    url = "memory://outlines"
    with Firelock(url) as fire, Firelock(url) as other:
        fire.task(name="small")(small)
        publish_tasks(fire.client)

        entry = other.catalogue.get("small")

        assert ParameterOutline("a", "int", (), True, False, False) == entry.parameters[0]
        assert tuple(outline_of(binder_of(small))) == entry.parameters
        assert entry == asyncio.run(other.catalogue.aget("small"))


def test_catalogue_contains_the_limits_of_a_task():
    """The limits of a task are stored in the catalogue with the defaults that are used in keys.

    An app that reads the catalogue does not declare the settings of these limits.
    """

    def report(tenant: int, day: date = date(2026, 1, 2), kind: str = "all") -> None: ...

    url = "memory://published_limits"
    with Firelock(url) as fire, Firelock(url) as other:
        limits = [Limit("tenant:{tenant}/day:{day}", rate=5, per=60, cost="{tenant}"), Turns("kind:{kind}")]
        task = fire.task(
            name="new", aliases=["old"], limits=limits, unique=Unique(until="started", at_least=5),
            start_before=timedelta(hours=1),
        )(report)  # fmt: skip
        publish_tasks(fire.client)

        entry = other.catalogue.get("new")
        published = other.published_task("new")
        job = published.enqueue(7)

        assert (tuple(limits), task.info.unique, timedelta(hours=1)) == (
            entry.limits, entry.unique, entry.start_before,
        )  # fmt: skip
        assert ("tenant:7/day:2026-01-02", "kind:all") == job.limits
        assert job == task.enqueue(7)
        assert {} == other.declared_limits()
        assert published.info.is_published


def test_task_of_another_app_can_be_enqueued():
    """A job is checked against the stored outline.

    Unknown names and arguments that do not fit are refused.
    """
    url = "memory://published"
    with Firelock(url) as fire, Firelock(url) as other:
        fire.task(name="small", queue="q", priority=4, aliases=["little"])(small)
        publish_tasks(fire.client)

        job = other.published_task("little").enqueue(1, c=None).record()
        again = asyncio.run(other.apublished_task("small"))

        assert ("small", "q", 4, '{"a":1,"c":null}') == (job.task, job.queue, job.priority, job.arguments)
        assert again.info is other.registry.get("small")
        with pytest.raises(SignatureMismatch):
            again.enqueue(b="x")
        with pytest.raises(UnknownTask, match="Task 'large' is not registered in this app, and no server"):
            other.published_task("large")
