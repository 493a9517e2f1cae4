"""Values of every supported annotation are restored exactly, with the same types, or are refused."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firelock.arguments.serializer import JsonSerializer, JsonValue
from firelock.arguments.signature import compile_binder, make_converter
from firelock.errors import ArgumentError, SignatureMismatch, TaskError

JSON = JsonSerializer()
NOW = datetime(2026, 11, 24, 12, 30, 0, 5, tzinfo=UTC)
INSTANTLY = timezone(timedelta(microseconds=1))
UserId = NewType("UserId", int)
T = TypeVar("T")


class Colour(Enum):
    RED = "r"
    BLUE = "b"


class Text(StrEnum):
    A = "a"


class Level(IntEnum):
    LOW = 1


class Shape(Enum):
    ROUND = (1, 2)
    SQUARE = (3, 4)


class Rights(Flag):
    READ = 1
    WRITE = 2


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass
class SubPoint(Point):
    z: int = 0


@attrs.frozen
class Order:
    number: int | str
    placed_at: datetime
    lines: list[str] = attrs.field(factory=list)
    where: Point | None = None
    extra: Any = None
    by_id: dict[UUID, Decimal] = attrs.field(factory=dict)


@attrs.frozen
class Refund:
    reason: str


@dataclass(eq=False)
class Node:
    value: int
    children: list[Node] = field(default_factory=list)
    parent: Node | None = None


@dataclass
class Box(Generic[T]):
    content: T


class Row(NamedTuple):
    key: str
    day: date


class Options(TypedDict):
    name: str
    until: NotRequired[date]


@attrs.frozen
class Total:
    price: int
    twice: int = attrs.field(init=False, default=attrs.Factory(lambda self: self.price * 2, takes_self=True))


class Widget:
    pass


@dataclass
class Shelf:
    widget: Widget


def binder_for(annotation, **options):
    def run(x): ...

    run.__annotations__ = {"x": annotation}
    return compile_binder(run, task="tests.run", **options)


def sent(annotation, value):
    binder = binder_for(annotation)
    (back,), named = binder.decode_text(binder.encode_text((value,), {}, JSON), JSON)
    assert {} == named
    return back


def exact(value):
    """Return a string that shows the types of all nested values; sets are sorted."""
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}{sorted(map(exact, value))}"
    return f"{type(value).__name__}:{value!r}"


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Literal["a", 1, None], 1),
        (Literal[Colour.RED], Colour.RED),
        (UserId, 5),
        (JsonValue, {"a": [1, None]}),
        (Order, Order(1, NOW)),
        (Order, Order("a", NOW, ["x"], Point(1), {"a": [1, None]}, {UUID(int=1): Decimal("1.50")})),
        (Order | Refund, Refund("late")),
        (Options, {"name": "a", "until": date(2026, 1, 1)}),
        (Total, Total(2)),
        (tuple, (1, "a")),
        pytest.param(set[str], {"b", "a"}, id="set"),  # the order of a set differs between processes
        (set[tuple[int, str]], {(1, "a")}),
        (frozenset[date], frozenset({date(2026, 1, 1)})),
        (deque[int], deque([1, 2])),
        (dict[date, Point], {date(2026, 1, 1): Point(1)}),
        (Mapping[UUID, int], {UUID(int=1): 1}),
        (str | list[str] | dict[str, int] | None, {"a": 1}),
        (Literal["auto"] | int, "auto"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_value_is_restored_exactly(annotation, value):
    """The restored value is equal to the original, and all nested values have the same types."""
    back = sent(annotation, value)

    assert exact(value) == exact(back)


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        (date, NOW, "must be date, got datetime"),
        (datetime, datetime(2026, 1, 1), "naive datetime at $.x; add a time zone"),  # noqa: DTZ001
        (time, time(1, tzinfo=ZoneInfo("Europe/Berlin")), "time in a zone whose offset depends on the day"),
        (datetime, datetime(2026, 1, 1, tzinfo=INSTANTLY), "offset from UTC with a fraction of a second"),
        (time, time(1, tzinfo=INSTANTLY), "offset from UTC with a fraction of a second"),
        (Decimal, Decimal("NaN"), "Decimal that is not finite"),
        (Decimal, 1.5, "must be Decimal, got float"),
        (Colour, "r", "must be Colour, got str"),
        (Level, 1, "must be Level, got int"),
        (str, Text.A, "must be str, got Text"),
        (int, Level.LOW, "must be int, got Level"),
        (Literal[1, "a"], True, "must be Literal[1, 'a'], got bool"),
        (float, 2**60 + 1, "integer of 61 bits that is not equal to any float at $.x; annotate it as int"),
        (float, math.nan, "non-finite number nan"),
        (float, True, "must be float, got bool"),
        (str | int, 1.5, "must be str | int, got float"),
        (list[int], (1,), "must be list[int], got tuple"),
        (list[int], [1, "2"], "str where int is annotated at $.x[1]; pass int"),
        (dict[str, int], {"a": "1"}, "str where int is annotated at $.x.a"),
        (tuple[int, ...], [1], "must be tuple[int, ...], got list"),
        (tuple[int, date], (1,), "does not fit tuple[int, datetime.date]"),
        (set[str], frozenset({"a"}), "must be set[str], got frozenset"),
        (tuple, ((1,),), "would not be restored to an equal value at $.x; annotate the types of its items"),
        (Point, Point("1"), "str where int is annotated at $.x.x"),
        (Point, SubPoint(1), "must be Point, got SubPoint"),
        (Order, Order(1, NOW, ("a",)), "tuple where list[str] is annotated"),
        (Order, Order(1, NOW, extra=(1,)), "tuple is not a JSON type at $.x.extra"),
        (Options, {"until": date(2026, 1, 1)}, "'name' is missing at $.x"),
        (Options, {"name": "a", "other": 1}, "unknown key 'other' at $.x; use the keys name, until"),
        (Path, Path("a"), "passes a path (PosixPath) in argument 'x' (position 1); pass str(path)"),
        (Widget, Widget(), "Widget is not a type that can be stored at $.x; use a dataclass"),
        (Shelf, Shelf(Widget()), "Widget is not a type that can be stored"),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_value_of_another_type_than_its_annotation_is_refused(annotation, value, words):
    """Values are neither coerced nor lost. The message names the parameter, its position and the fix."""
    with pytest.raises(ArgumentError) as caught:
        binder_for(annotation).encode_text((value,), {}, JSON)

    message = str(caught.value)
    assert words in message
    assert "argument 'x' (position 1)" in message


def test_integer_for_a_float_annotation_is_restored_as_float():
    """The conversion from int to float is the only widening conversion.

    It also applies inside lists and classes.
    """
    assert exact(1.0) == exact(sent(float, 1))
    assert exact([2.0, None]) == exact(sent(list[float | None], [2, None]))
    assert exact(Point(1, 2.0)) == exact(sent(Point, Point(1, 2)))


def test_value_of_a_recursive_class_is_restored():
    """A nested structure can be stored if it has a finite depth."""
    back = sent(Node, Node(1, [Node(2, [Node(3)])], Node(4)))

    assert isinstance(back, Node)
    assert [1, 2, 3] == [back.value, back.children[0].value, back.children[0].children[0].value]
    assert back.parent is not None
    assert 4 == back.parent.value


def test_cyclic_value_is_refused():
    """An object that contains itself raises an ArgumentError."""
    node = Node(1)
    node.children.append(node)

    with pytest.raises(ArgumentError, match="contains itself or is nested too deep"):
        binder_for(Node).encode((node,), {})


def test_datetime_keeps_its_offset_but_not_its_zone_name():
    """A datetime keeps its offset even in the repeated hour at the end of daylight saving time.

    Python considers a time in that hour different from the same time in any other zone.
    """
    zone = ZoneInfo("Europe/Berlin")
    value = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zone)

    direct = sent(datetime, value)
    inside = sent(Box[datetime], Box(value))

    assert isinstance(direct, datetime)
    assert isinstance(inside, Box)
    assert "2026-10-25T02:30:00+01:00" == direct.isoformat() == inside.content.isoformat()


class Moody(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        raise RuntimeError("no idea")

    def dst(self, when: datetime | None) -> None:
        return None


def test_error_of_a_time_zone_object_becomes_an_argument_error():
    """The caller must not get an exception from third-party code."""
    with pytest.raises(ArgumentError, match="does not fit datetime: no idea"):
        binder_for(datetime).encode((datetime(2026, 1, 1, tzinfo=Moody()),), {})


def test_equal_sets_are_stored_as_equal_strings():
    """The order of a set depends on the process, but its stored form does not."""
    binder = binder_for(set[str])

    text = binder.encode_text(({"c", "a", "b"},), {}, JSON)

    assert '{"x":["a","b","c"]}' == text


# ---- stored values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "stored", "words"),
    [
        (date, "yesterday", "does not fit date: Invalid isoformat string: 'yesterday' at $.x"),
        (datetime, "2026-01-01", "naive datetime"),
        (timedelta, "PT1H", "not a duration like PT90.500000S"),
        (timedelta, "PT99999999999999S", "does not fit timedelta"),
        (bytes, "é", "does not fit bytes"),
        (Colour, "x", "not a member of Colour"),
        (Level, True, "not a member of Level"),
        (Rights, 8, "does not fit Rights"),
        (Point, {"x": "1"}, "str where int is annotated at $.x.x"),
        (Point, {}, "'x' is missing at $.x"),
        (Point, {"x": 1, "z": 2}, "unknown fields 'z' at $.x"),
        (list[Point], [{"x": 1}, {"x": None}], "NoneType where int is annotated at $.x[1].x"),
        (set[str], {"a": 1}, "dict where set[str] is annotated"),
        (dict[date, int], [1], "list where dict[datetime.date, int] is annotated"),
        (Order | Refund, {"reason": 5}, "int where str is annotated"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_stored_value_of_another_type_than_its_annotation_is_refused(annotation, stored, words):
    """Values are not coerced when they are read. The message contains the path of the value."""
    with pytest.raises(ArgumentError) as caught:
        binder_for(annotation).decode({"x": stored})

    assert words in str(caught.value)


def test_waiting_job_gets_the_default_of_an_added_field():
    back, _ = binder_for(Point).decode({"x": {"x": 1}})

    assert (Point(1, 0.0),) == back


# ---- unions ----------------------------------------------------------------------------------------------


@attrs.frozen
class Twin:
    reason: str


@pytest.mark.parametrize(
    "annotation",
    [
        str | date,
        date | datetime,
        list[str | date],
        dict[str, date | int],
        Point | str,
        Refund | Twin,
        list[int] | list[str],
        set[int] | None | int,
    ],
    ids=str,
)
def test_union_that_is_ambiguous_in_json_is_refused_at_registration(annotation):
    """If such a union were accepted, a string could be restored as a date, or a date as a string."""
    with pytest.raises(TaskError, match=r"parameter 'x' is annotated .* cannot be distinguished in JSON"):
        binder_for(annotation)


@dataclass
class Mixed:
    value: str | date


def test_ambiguous_union_inside_a_class_is_refused_at_the_first_value():
    """The fields of a class are read only when the first value is converted."""
    with pytest.raises(ArgumentError, match=r"str \| datetime.date is not a type that can be stored"):
        binder_for(Mixed).encode((Mixed("a"),), {})


# ---- custom types --------------------------------------------------------------------------


def test_converter_of_the_app_stores_custom_types():
    """The converter is created only when it is needed."""
    calls = []

    def converter():
        calls.append(1)
        made = make_converter()
        made.register_unstructure_hook(Money, lambda money: f"{money.cents}c")
        made.register_structure_hook(Money, lambda text, _: Money(int(text[:-1])))
        return made

    binder = binder_for(list[Money], converter=converter)
    before = list(calls)

    text = binder.encode_text(([Money(5)],), {}, JSON)

    assert ([], [1]) == (before, calls)
    assert '{"x":["5c"]}' == text
    assert (([Money(5)],), {}) == binder.decode_text(text, JSON)


class Money:
    def __init__(self, cents):
        self.cents = cents

    def __eq__(self, other):
        return isinstance(other, Money) and self.cents == other.cents

    def __hash__(self):
        return hash(self.cents)


def test_pydantic_model_is_restored():
    """Pydantic validates stored models. It is an optional dependency."""
    pydantic = pytest.importorskip("pydantic")

    class User(pydantic.BaseModel):
        name: str
        born: date

    value = User(name="Ann", born=date(2000, 1, 1))

    back = sent(list[User], [value])

    assert [value] == back
    with pytest.raises(ArgumentError, match="must be User, got dict"):
        binder_for(User).encode(({"name": "Ann"},), {})
    with pytest.raises(ArgumentError, match="does not fit"):
        binder_for(User).decode({"x": {"name": "Ann"}})
    with pytest.raises(
        ArgumentError, match=r"User is not a JSON type at .*; annotate the parameter with User"
    ):
        binder_for(Any).encode((value,), {})


# ---- properties ------------------------------------------------------------------------------------------

clean_text = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)
integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
offsets = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
leaves = {
    int: integers,
    str: clean_text,
    float: floats,
    bool: st.booleans(),
    date: st.dates(),
    datetime: st.datetimes(timezones=offsets).map(lambda value: value.replace(fold=0)),
    time: st.times(timezones=st.none() | offsets).map(lambda value: value.replace(fold=0)),
    timedelta: st.timedeltas(),
    UUID: st.uuids(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    bytes: st.binary(max_size=8),
    Colour: st.sampled_from(Colour),
    Text: st.sampled_from(Text),
    Level: st.sampled_from(Level),
    Rights: st.sampled_from([Rights.READ, Rights.READ | Rights.WRITE]),
    Shape: st.sampled_from(Shape),
    Point: st.builds(Point, integers, floats),
    Row: st.builds(Row, clean_text, st.dates()),
}


@st.composite
def annotated(draw):
    """Draw an annotation, which may be a container, and a value that fits it."""
    leaf = draw(st.sampled_from(list(leaves)))
    values = leaves[leaf]
    shape = draw(st.integers(0, 7))
    containers = [
        (leaf, values),
        (list[leaf], st.lists(values, max_size=3)),
        (tuple[leaf, ...], st.lists(values, max_size=3).map(tuple)),
        (dict[str, leaf], st.dictionaries(clean_text, values, max_size=3)),
        (dict[UUID, leaf], st.dictionaries(st.uuids(), values, max_size=3)),
        (leaf | None, st.none() | values),
        (Box[leaf], st.builds(Box, values)),
        (tuple[leaf, int], st.tuples(values, integers)),
    ]
    annotation, strategy = containers[shape]
    return annotation, draw(strategy)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(case=annotated())
def test_every_value_of_a_supported_annotation_is_restored(case):
    """The round trip is exact for every value that Hypothesis generates."""
    annotation, value = case

    back = sent(annotation, value)

    assert exact(value) == exact(back)


class Hostile:
    """An object whose special methods all raise an exception."""

    def _refuse(self, *args):
        raise RuntimeError("no")

    __eq__ = __hash__ = __repr__ = __str__ = __len__ = __iter__ = __bool__ = __getattr__ = _refuse


STRANGE = [
    Widget(),
    10**5000,
    math.nan,
    "\ud800",
    "a\0",
    b"x",
    {1},
    (1,),
    1j,
    Text.A,
    Point,
    len,
    Hostile(),
]
strange = st.integers(0, len(STRANGE) - 1).map(lambda index: STRANGE[index])
anything = st.recursive(
    st.none() | st.booleans() | integers | floats | st.text(max_size=3) | strange,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.none(), inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Order, inner, inner, inner, inner, inner, inner)
        | st.builds(Box, inner)
    ),
    max_leaves=8,
)
annotations = st.sampled_from(
    [Any, int, str, list[int], dict[str, float], date, datetime, bytes, Colour, Point, Order, Order | Refund,
     Box[Any], Row, Options, Node, set[str], tuple[int, date], Widget, Path, str | list[str] | None]
)  # fmt: skip


@settings(max_examples=300)
@given(annotation=annotations, value=anything)
def test_hostile_value_is_stored_completely_or_raises_a_firelock_error(annotation, value):
    """Encoding never raises another error, and every stored value is restored as an equal value."""
    binder = binder_for(annotation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            text = binder.encode_text((value,), {}, JSON)
        except (ArgumentError, SignatureMismatch):
            return

    (back,), _ = binder.decode_text(text, JSON)

    assert value == back


@settings(max_examples=300)
@given(
    annotation=annotations,
    stored=st.recursive(
        st.none()
        | st.booleans()
        | integers
        | floats
        | clean_text
        | st.sampled_from(["2026-01-01", "r", "PT1S"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["x", "y", "name", "key", "day", "reason"]), inner, max_size=3)
        ),
        max_leaves=8,
    ),
)
def test_any_stored_value_is_decoded_or_raises_a_firelock_error(annotation, stored):
    try:
        binder_for(annotation).decode({"x": stored})
    except (ArgumentError, SignatureMismatch):
        return
