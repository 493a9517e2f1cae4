"""Tasks by name, their parameters as form fields, and jobs created from form input."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import attrs
import pytest

from firelock import FieldKind, FormError, JobContext, Parameter
from firelock.arguments.forms import form_of_value
from firelock.arguments.signature import make_converter
from firelock.errors import ArgumentError, ConfigurationError, UnknownTask
from firelock.model.state import State


class Colour(enum.Enum):
    """An enum whose members are chosen by name; the values are not used."""

    RED = 1
    BLUE = 2


@attrs.frozen
class Point:
    """A value that is entered as JSON."""

    x: int


def field_of(fire, annotation, default=...):
    """Return the only field of a task whose parameter has this annotation."""

    def task(it): ...

    task.__annotations__["it"] = annotation
    if default is not ...:
        task.__defaults__ = (default,)
    fire.task(name="one")(task)
    (field,) = fire.parameters("one")
    return field


def read(fire, annotation, text):
    """Return the value that is read from `text` for a parameter with this annotation."""
    field_of(fire, annotation)
    return fire.arguments_from_text("one", {"it": text})["it"]


# ---- fields ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "kind", "choices"),
    [
        (str, "text", ()),
        (UUID, "text", ()),
        (timedelta, "text", ()),
        (int, "integer", ()),
        (float, "number", ()),
        (Decimal, "number", ()),
        (bool, "boolean", ()),
        (date, "date", ()),
        (datetime, "datetime", ()),
        (Colour, "enum", ("RED", "BLUE")),
        (Literal["fast", 2, True], "enum", ("fast", "2", "true")),
        (list[int], "json", ()),
        (Point, "json", ()),
        (Any, "json", ()),
        (int | str, "json", ()),
    ],
)
def test_annotation_determines_the_kind_of_field(fire, annotation, kind, choices):
    """An annotation that also allows None has the same kind of field."""
    required, optional = field_of(fire, annotation), None
    if annotation is not Any:
        optional = field_of(fire, annotation | None)

    assert (FieldKind(kind), choices, True, False, None) == (
        required.kind, required.choices, required.is_required, required.is_optional, required.default_text,
    )  # fmt: skip
    if optional is not None:
        assert (required.kind, choices, True) == (optional.kind, optional.choices, optional.is_optional)


@pytest.mark.parametrize(
    ("annotation", "default", "text"),
    [
        (str, "a b", "a b"),
        (bool, False, "false"),
        (Colour, Colour.BLUE, "BLUE"),
        (Literal["a", 2], 2, "2"),
        (Point, Point(1), '{"x": 1}'),
        (Any, "a", '"a"'),
    ],
)
def test_default_is_shown_as_a_string_that_can_be_submitted(fire, annotation, default, text):
    """Submitting an unchanged form does not change any value."""
    field = field_of(fire, annotation, default)

    assert (text, False) == (field.default_text, field.is_required)
    assert {"it": default} == fire.arguments_from_text("one", {"it": text})


def test_default_without_a_string_form_is_not_shown(fire):
    """The default applies if the field is left empty."""
    field = field_of(fire, Any, object())

    assert (None, False) == (field.default_text, field.is_required)
    assert {} == fire.arguments_from_text("one", {"it": ""})


def test_form_has_every_parameter_except_the_context(fire):
    """`*args` and `**kwargs` are entered as a JSON list and object, under the names used for storage."""

    @fire.task(name="many", aliases=["old"])
    def many(job: JobContext, a: int, /, *more: str, b: float = 0.5, **rest: int) -> None: ...

    assert [
        Parameter("a", "int", FieldKind.INTEGER, (), None, is_required=True),
        Parameter("b", "float", FieldKind.NUMBER, (), "0.5", is_required=False),
    ] == [field for field in fire.parameters("old") if field.name in "ab"]
    assert ["a", "*more", "b", "**rest"] == [field.name for field in fire.parameters("many")]
    arguments = (
        fire.enqueue_text("many", {"a": "1", "*more": '["x"]', "**rest": '{"z": 2}'}).record().arguments
    )
    assert '{"a":1,"*more":["x"],"**rest":{"z":2}}' == arguments


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (str, " as it stands "), (str | None, None), (int | None, 5), (bool, False), (float, 2.5),
        (Colour | None, Colour.BLUE), (Literal["a", 2], 2), (date, date(2026, 11, 25)),
        (datetime, datetime(2026, 11, 25, 10, tzinfo=UTC)), (Decimal, Decimal("1.50")), (Point, Point(1)),
        (UUID, UUID("12345678-1234-5678-1234-567812345678")), (list[str], ["ü"]), (Any, "a"), (Any, None),
    ],
)  # fmt: skip
def test_stored_arguments_are_shown_as_strings_that_can_be_submitted(fire, annotation, value):
    """A form that is filled with a job's arguments and submitted unchanged makes the same call."""
    field_of(fire, annotation)
    stored = json.loads(fire.task_named("one").enqueue(value).record().arguments)

    texts = fire.texts_from_arguments("one", stored)

    assert {"it": value} == fire.arguments_from_text("one", texts)


def test_stored_argument_without_a_valid_string_is_omitted(fire):
    """A removed parameter and a value that is no longer a choice are omitted; all others are returned."""

    @fire.task(name="two")
    def two(colour: Colour, note: str = "") -> None: ...

    assert {"note": "x"} == fire.texts_from_arguments("two", {"colour": 9, "note": "x", "gone": 1})
    with pytest.raises(UnknownTask):
        fire.texts_from_arguments("nobody", {})


# ---- reading input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (str, " as it stands ", " as it stands "),
        (str, "", ""),
        (int, " -7 ", -7),
        (float, "2", 2.0),
        (bool, "On", True),
        (bool, "0", False),
        (datetime, "2026-11-25T10:00:00Z", datetime(2026, 11, 25, 10, tzinfo=UTC)),
        (Point, '{"x": 3}', Point(3)),
        (Any, "[1, null]", [1, None]),
    ],
)
def test_string_is_converted_to_the_type_of_its_parameter(fire, annotation, text, value):
    """The kind of the field determines how a string is read."""
    assert value == read(fire, annotation, text)


@pytest.mark.parametrize(
    ("annotation", "text", "advice"),
    [
        (int, "1.5", "'1.5' is invalid; enter a whole number"),
        (int, "", "is required; enter a whole number"),
        (float, "nan", "'nan' is invalid; enter a number, such as 1.5"),
        (Decimal, "much", "'much' is invalid; enter a number, such as 1.5"),
        (bool, "maybe", "'maybe' is invalid; enter true or false"),
        (date, "tomorrow", "'tomorrow' is invalid; enter a date, such as 2026-11-25"),
        (
            datetime, "2026-11-25T10:00",
            (
                "'2026-11-25T10:00' is invalid; enter a date and time with an offset, such as "
                "2026-11-25T10:00:00+00:00"
            ),
        ),
        (Colour, "1", "'1' is invalid; enter one of RED, BLUE"),
        (Any, "[" * 100_000, f"'{'[' * 99}… is invalid; enter JSON for Any"),
    ],
)  # fmt: skip
def test_invalid_input_is_reported_for_its_field(fire, annotation, text, advice):
    """The error contains the field, its input and the expected input."""
    with pytest.raises(FormError) as caught:
        read(fire, annotation, text)

    assert {"it": advice} == caught.value.fields
    assert f"Arguments do not match one. it: {advice}." == str(caught.value)


def test_error_about_json_input_contains_the_reason(fire):
    """The message explains why JSON is invalid or which type was expected."""
    with pytest.raises(FormError, match=r"is invalid \(Expecting .* column 2"):
        read(fire, Point, "{")
    with pytest.raises(FormError, match=r"is invalid \(.*annotated"):
        read(fire, list[str], "[1]")


def test_one_error_lists_all_invalid_fields(fire):
    """The error includes unknown fields, and nothing is stored."""

    @fire.task(name="two")
    def two(a: int, b: bool) -> None: ...

    with pytest.raises(ArgumentError) as caught:
        fire.enqueue_text("two", {"a": "x", "c": "1"})

    assert {"a", "b", "c"} == set(caught.value.fields)
    assert 0 == sum(fire.jobs.counts().by_state.values())


# ---- enqueueing ------------------------------------------------------------------------------------------


def test_strings_are_enqueued_with_the_usual_options_and_checks(fire):
    """An omitted parameter keeps its default."""

    @fire.task(name="report", tags=["day:{day}"])
    def report(day: date, copies: int = 1) -> None: ...

    job = fire.enqueue_text(
        "report", {"day": "2026-11-25"}, queue="bulk", priority=4, delay=60, tags=["by hand"],
        reason="asked for by ada",
    )  # fmt: skip

    record = job.record()
    assert ('{"day":"2026-11-25"}', "bulk", 4, State.SCHEDULED) == (
        record.arguments, record.queue, record.priority, record.state,
    )  # fmt: skip
    assert ("day:2026-11-25", "by hand") == record.tags
    assert ["asked for by ada"] == [entry.reason for entry in job.history()]
    with pytest.raises(ConfigurationError, match=r"Queue name must be 1 to 64 .*, got 'No'"):
        fire.enqueue_text("report", {"day": "2026-11-25"}, queue="No")
    assert "default" == asyncio.run(fire.aenqueue_text("report", {"day": "2026-11-25"})).queue


def test_task_is_found_by_its_name_and_aliases(fire):
    """The error for an unknown name lists the registered names."""

    @fire.task(name="new", aliases=["old"])
    def task(it: int) -> None: ...

    assert ("new", "new") == (fire.task_named("new").name, fire.task_named("old").name)
    assert '{"it":3}' == fire.task_named("old").enqueue(3).record().arguments
    for verb in (fire.task_named, fire.parameters, lambda name: fire.enqueue_text(name, {})):
        with pytest.raises(
            UnknownTask, match=r"Task 'other' is not registered in this app\. Registered: new"
        ):
            verb("other")


# ---- a single value --------------------------------------------------------------------------------------


@dataclasses.dataclass
class Box:
    """A dataclass with each kind of default."""

    size: int
    label: str = "plain"
    tags: list[str] = dataclasses.field(default_factory=list)
    made: int = dataclasses.field(default=0, init=False)


@attrs.define
class Private:
    """A class whose constructor uses other parameter names than its fields."""

    _secret: int
    twice: int = attrs.field(init=False)
    later: int = attrs.Factory(lambda self: self._secret + 1, takes_self=True)

    def __attrs_post_init__(self):
        self.twice = 2 * self._secret


def form_of(annotation):
    return form_of_value(annotation, "It", make_converter)


def test_form_of_a_record_has_the_parameters_of_its_constructor():
    """Defaults that have a text form are shown. Fields that the class sets itself are omitted."""
    box, private = form_of(Box), form_of(Private)

    fields = [(one.name, one.default_text, one.is_required) for one in box.parameters()]
    assert [("size", None, True), ("label", "plain", False), ("tags", "[]", False)] == fields
    fields = [(one.name, one.default_text, one.is_required) for one in private.parameters()]
    assert [("secret", None, True), ("later", None, False)] == fields
    assert Box(3, "plain", ["a"]) == box.read({"size": "3", "tags": '["a"]'})
    assert (4, 5) == (private.read({"secret": "4"}).twice // 2, private.read({"secret": "4"}).later)


@pytest.mark.parametrize("annotation", [int, Box | None, list[Box], Any])
def test_value_that_is_not_a_record_is_one_field(annotation):
    assert ["value"] == [one.name for one in form_of(annotation).parameters()]


def test_record_with_unresolvable_types_is_one_json_field():
    """A local class whose field is annotated with another local class is entered as JSON."""

    @attrs.frozen
    class Inner:
        size: int

    @attrs.frozen
    class Outer:
        inner: Inner

    form = form_of_value(Outer, "It", make_converter)

    assert ["value"] == [one.name for one in form.parameters()]


def test_error_of_a_constructor_belongs_to_the_whole_record():
    """The form shows the message of the class, because no single field is wrong."""

    @attrs.frozen
    class Even:
        number: int = attrs.field()

        @number.validator
        def _check(self, _, value):
            if value % 2:
                raise ValueError(f"{value} is odd")

    with pytest.raises(FormError, match="It cannot be created from these fields: 3 is odd") as raised:
        form_of(Even).read({"number": "3"})
    assert {} == raised.value.fields
