"""Calls are stored as strings and restored, or refused if they do not fit the signature or the limits."""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firelock.arguments.serializer import JsonSerializer, Serializer
from firelock.arguments.signature import LargeArgumentsWarning, check_callable, compile_binder
from firelock.errors import ArgumentError, ArgumentTooLarge, SignatureMismatch, TaskError

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers

JSON = JsonSerializer()
STRANGE = object()


class JobContext:
    """A replacement for the real class."""


class Snooze:
    pass


def binder_of(function, **options):
    options.setdefault("context_type", JobContext)
    return compile_binder(function, task=f"tests.{function.__name__}", **options)


def create_report(day: str) -> str: ...


def resize(width: int, height: int = 10, *, sharp: bool = False) -> None: ...


def send(to: str, body: str) -> None: ...


def anything(x: Any) -> Any: ...


def everything(a: int, /, b: int = 2, *more: int, c: int = 3, **rest: int) -> None: ...


def only(a: int = 1, b: int = 2, /, c: int = 3) -> None: ...


def of_today(ctx: JobContext, day: str) -> None: ...


# ---- stored arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "text"),
    [
        (create_report, ("2026-11-24",), {}, '{"day":"2026-11-24"}'),
        (resize, (1, 2), {}, '{"width":1,"height":2}'),
        (resize, (), {"sharp": True, "height": 2, "width": 1}, '{"width":1,"height":2,"sharp":true}'),
        (everything, (1,), {}, '{"a":1}'),
        (everything, (1, 2, 3, 4), {"c": 5, "d": 6}, '{"a":1,"b":2,"c":5,"*more":[3,4],"**rest":{"d":6}}'),
        (everything, (1,), {"a": 2}, '{"a":1,"**rest":{"a":2}}'),
        (of_today, ("x",), {}, '{"day":"x"}'),
    ],
)
def test_arguments_are_stored_by_name_in_the_order_of_parameters(function, args, kwargs, text):
    """Only the passed arguments are stored, in a single form, so equal calls are stored as equal strings."""
    binder = binder_of(function)

    stored = binder.encode_text(args, kwargs, JSON)

    assert text == stored


@given(
    args=st.lists(st.integers(-5, 5), max_size=5),
    kwargs=st.dictionaries(st.sampled_from(["a", "b", "c", "width", "sharp"]), st.integers(-5, 5)),
    function=st.sampled_from([everything, only, resize]),
)
def test_call_is_bound_like_in_python_and_restored(args, kwargs, function):
    """A call that Python accepts is restored as the same call. Any other call raises a SignatureMismatch."""
    if function is resize and "sharp" in kwargs:
        kwargs["sharp"] = kwargs["sharp"] > 0
    binder, signature = binder_of(function), inspect.signature(function)
    try:
        function(*args, **kwargs)  # Python 3.13.0's `Signature.bind` ignores a positional-only name
    except TypeError:
        with pytest.raises(SignatureMismatch):
            binder.encode_text(tuple(args), kwargs, JSON)
        return
    expected = signature.bind(*args, **kwargs)

    back, named = binder.decode_text(binder.encode_text(tuple(args), kwargs, JSON), JSON)

    assert expected == signature.bind(*back, **named)


# ---- calls that do not fit -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "words"),
    [
        (create_report, (), {}, "create_report(day: str) was called without 'day'"),
        (
            create_report,
            ("a", "b"),
            {},
            "create_report(day: str) takes 1 positional argument, but 2 were given",
        ),
        (
            create_report,
            (),
            {"dya": "x"},
            "create_report(day: str) has no parameter 'dya'. Did you mean 'day'?",
        ),
        (create_report, ("x",), {"zzz": 1}, "create_report(day: str) has no parameter 'zzz'"),
        (
            create_report,
            ("x",),
            {"day": "y"},
            "create_report(day: str) was called with 'day' twice, by position and by name",
        ),
        (
            only,
            (),
            {"a": 1},
            "only(a: int = 1, b: int = 2, /, c: int = 3) takes 'a' by position only",
        ),
        (
            send,
            (1, 2, True),
            {},
            "send(to: str, body: str) takes 2 positional arguments, but 3 were given",
        ),
        (of_today, (), {}, "of_today(day: str) was called without 'day'"),
    ],
)
def test_error_about_a_mismatching_call_shows_the_signature(function, args, kwargs, words):
    """The shown signature omits the context parameter."""
    binder = binder_of(function)

    with pytest.raises(SignatureMismatch) as caught:
        binder.encode(args, kwargs)

    assert words == str(caught.value)


def test_default_with_an_unusual_or_long_repr_is_not_shown():
    """The signature shows three dots instead of such a default."""

    def find(where: Any = STRANGE, limit: int = 5) -> None: ...

    with pytest.raises(SignatureMismatch, match=r"^find\(where: Any = \.\.\., limit: int = 5\) takes 2"):
        binder_of(find).encode((1, 2, 3), {})


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"day": "x"}, "'day' is unknown and 'width' is missing"),
        ({}, "'width' is missing"),
        ({"width": 1, "__class__": "os.system"}, "'__class__' is unknown"),
    ],
)
def test_arguments_of_an_older_signature_fail_before_the_run(stored, words):
    """If the signature changed while a job was waiting, the job fails. The error describes the change."""
    with pytest.raises(SignatureMismatch) as caught:
        binder_of(resize).decode(stored)

    shown = "resize(width: int, height: int = 10, *, sharp: bool = False)"
    assert f"{shown} no longer matches the stored arguments: {words}" == str(caught.value)


def test_extra_keyword_that_became_a_parameter_is_refused():
    """The stored keyword cannot be passed both as an extra keyword and as the new parameter."""
    with pytest.raises(SignatureMismatch, match="'c' is a parameter now"):
        binder_of(everything).decode({"a": 1, "**rest": {"c": 1}})


@pytest.mark.parametrize(
    ("stored", "args", "kwargs"),
    [
        ({"c": 9}, (), {"c": 9}),
        ({"b": 9, "c": 8}, (1, 9, 8), {}),
    ],
)
def test_gap_before_a_positional_only_parameter_gets_the_current_default(stored, args, kwargs):
    """All parameters before a positional-only argument must be passed.

    Python applies all other defaults when the function is called.
    """
    call = binder_of(only).decode(stored)

    assert (args, kwargs) == call


def test_gap_before_args_gets_the_current_default():
    """All positional parameters before `*args` must be passed as well."""
    call = binder_of(everything).decode({"a": 1, "*more": [7], "c": 4})

    assert ((1, 2, 7), {"c": 4}) == call


@pytest.mark.parametrize("stored", [None, [], "x", 5])
def test_stored_arguments_that_are_not_an_object_are_refused(stored):
    """The error is an ArgumentError."""
    with pytest.raises(
        ArgumentError, match=r"The stored arguments of tests\.resize must be an object, got \w+"
    ):
        binder_of(resize).decode(stored)


# ---- annotations -----------------------------------------------------------------------------------------


def test_error_about_an_unresolvable_annotation_names_the_parameter():
    """The message also names the usual cause, an import under TYPE_CHECKING."""

    def pay(amount: OnlyForCheckers) -> None: ...

    with pytest.raises(TaskError) as caught:
        binder_of(pay)

    message = str(caught.value)
    assert "the annotation 'OnlyForCheckers' of parameter 'amount' cannot be resolved" in message
    assert "imported under TYPE_CHECKING must also be imported at run time" in message


def test_local_type_is_found_in_the_passed_namespace():
    """A task that is defined in a function can be annotated with local types of that function."""

    class Local(dict[str, int]):
        pass

    def run(value: Local | None) -> None: ...

    with pytest.raises(TaskError):
        binder_of(run)
    assert (None,) == binder_of(run, namespace={"Local": Local}).decode({"value": None})[0]


# ---- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "of type float: non-finite number nan at $.x; JSON has no NaN and no infinity"),
        (2**63, "of type int: integer out of range: 64 bits; must be -2^63 to 2^63 - 1 at $.x; pass"),
        ("a\0", "of type str: NUL character in string at $.x"),
        ({1: 2}, "of type dict: an object's key must be str, got int at $.x; use strings as keys"),
        (
            functools.reduce(lambda inner, _: [inner], range(100_000), []),
            "of type list: nested deeper than 64 levels, or contains itself",
        ),
        ((1, 2), "of type tuple: tuple is not a JSON type at $.x; annotate the parameter as tuple[...]"),
        ({"a": {1}}, "of type dict: set is not a JSON type at $.x.a; annotate the parameter as set[...]"),
        (b"x", "of type bytes: bytes is not a JSON type at $.x; annotate the parameter as bytes"),
        (1j, "of type complex: complex is not a JSON type at $.x; pass plain values"),
    ],
    ids=lambda value: ascii(value)[:20] if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_value_that_cannot_be_restored_is_refused(value, words):
    """The message contains the parameter, its position, its type, the path and the fix."""
    with pytest.raises(ArgumentError) as caught:
        binder_of(anything).encode_text((value,), {}, JSON)

    assert str(caught.value).startswith("anything.enqueue(x): argument 'x' (position 1) of type ")
    assert words in str(caught.value)


def nested(depth: int) -> list[object]:
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_error_shows_that_an_argument_is_passed_by_name():
    """The cases with `*args` and `**kwargs` are in `test_refusals`."""
    with pytest.raises(ArgumentError, match=r"\(by name\)"):
        binder_of(resize).encode((1,), {"sharp": 1})


# ---- size ------------------------------------------------------------------------------------------------


def test_error_about_oversized_arguments_names_the_largest():
    """The message also contains the size, the limit and the fix."""
    with pytest.raises(ArgumentTooLarge) as caught:
        binder_of(send).encode_text(("ann", "x" * 40_000), {}, JSON)

    expected = (
        "send has 40,022 bytes of arguments; the largest is 'body' of 40,002. "
        "The limit is 32,768; store it elsewhere and pass a reference"
    )
    assert expected == str(caught.value)


def test_size_of_the_largest_argument_is_its_stored_size():
    """No argument can be larger than all arguments together."""

    def total(days: list[int]) -> None: ...

    with pytest.raises(ArgumentTooLarge, match=r"has 40,010 bytes of arguments; .* is 'days' of 40,001"):
        binder_of(total).encode_text(([1] * 20_000,), {}, JSON)


def test_size_limit_is_inclusive_and_counts_bytes():
    """Characters outside ASCII count as the number of bytes that they need in the storage."""
    body = "é" * 40
    limit = len(JSON.dumps({"to": "", "body": ""})) + 80
    binder = binder_of(send, limit=limit, warn_at=limit)

    text = binder.encode_text(("", body), {}, JSON)

    assert limit == len(text.encode())
    with pytest.raises(ArgumentTooLarge, match=f"send has {limit + 1} bytes"):
        binder.encode_text(("x", body), {}, JSON)


def test_large_arguments_cause_one_warning_per_task():
    """The first call with at least 4 KiB of arguments causes a warning, which points to the caller's line."""
    binder = binder_of(send)

    with pytest.warns(LargeArgumentsWarning, match="send has 5,022 bytes of arguments") as caught:
        binder.encode_text(("ann", "x" * 5_000), {}, JSON)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        binder.encode_text(("ann", "x" * 5_000), {}, JSON)

    assert [__file__] == [each.filename for each in caught]


# ---- other serializers -----------------------------------------------------------------------------------


class Reversed(Serializer):
    """A third-party serializer, which checks nothing and may raise any error."""

    name = "reversed"

    def dumps(self, value):
        if value == {"day": "bad"}:
            raise ZeroDivisionError("oops")
        return JSON.dumps(value)[::-1] if value != {"day": "odd"} else "odd"

    def loads(self, text):
        return {"day": ("a",)} if text == "odd" else JSON.loads(text[::-1])


def test_errors_of_another_serializer_become_argument_errors():
    """Callers and workers always get an ArgumentError, whatever exception the serializer raises."""
    binder = binder_of(create_report)

    with pytest.raises(ArgumentError, match="The serializer 'reversed' failed: oops"):
        binder.encode_text(("bad",), {}, Reversed())
    with pytest.raises(ArgumentError, match="tuple is not a JSON type"):
        binder.decode_text("odd", Reversed())
    with pytest.raises(ArgumentError, match="lone surrogate"):
        binder.encode_text(("\ud800",), {}, Reversed())
    with pytest.raises(ArgumentError, match="The serializer 'reversed' cannot read the string"):
        binder.decode_text(5, Reversed())


# ---- results ---------------------------------------------------------------------------------------------


def snoozing() -> Snooze | list[int] | None: ...


def unknown_result() -> OnlyForCheckers: ...


def returns_none() -> None: ...


def test_result_is_stored_according_to_the_return_annotation():
    """The server handles some types itself, so they are removed from the annotation."""
    binder = binder_of(snoozing, flow_types=(Snooze,))

    text = binder.encode_result_text([1, 2], JSON)

    assert [1, 2] == binder.decode_result_text(text, JSON)
    assert binder.decode_result_text(binder.encode_result_text(None, JSON), JSON) is None


@pytest.mark.parametrize(
    ("function", "value", "words"),
    [
        (anything, (1, 2), "The result of tests.anything, of type tuple: tuple is not a JSON type at $"),
        (anything, {"a": object()}, "of type dict: object is not a JSON type at $.a"),
        (
            anything,
            (each for each in ()),
            "of type generator: generator is not a JSON type at $; pass a list",
        ),
        (returns_none, 5, "int where None is annotated at $"),
        (create_report, 5, "int where str is annotated at $"),
        (unknown_result, 5, "the annotation 'OnlyForCheckers' of the return value cannot be resolved"),
    ],
)
def test_result_that_cannot_be_stored_is_refused_with_the_reason(function, value, words):
    """An unresolvable return annotation does not prevent the registration, but results cannot be stored."""
    with pytest.raises(ArgumentError) as caught:
        binder_of(function).encode_result_text(value, JSON)

    assert words in str(caught.value)


# ---- callables as tasks ----------------------------------------------------------------------------------


class Mailer:
    def send(self, to: str) -> None: ...

    def __call__(self) -> None: ...


def numbers() -> Any:
    yield 1


async def async_numbers() -> Any:
    yield 1


async def fetch() -> None: ...


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (numbers, "numbers cannot be a task: it is a generator function; return a list"),
        (async_numbers, "async_numbers cannot be a task: it is an async generator function; return a list"),
        (numbers(), "it is a generator, the result of a call"),
        (
            Mailer().send,
            "Mailer.send cannot be a task: it is a bound method; write a function that accepts an id",
        ),
        (Mailer.send, "Mailer.send cannot be a task: it is a method; write a function that accepts an id"),
        (Mailer, "Mailer cannot be a task: it is a class; write a function that creates an instance"),
        (Mailer(), "'Mailer' cannot be a task: it is a callable object; write a function that calls it"),
        (functools.partial(fetch), "'partial' cannot be a task: it is a functools.partial"),
        (staticmethod(fetch), "it is a staticmethod or classmethod object"),
        (len, "len cannot be a task: it is a builtin; wrap it in a def"),
        (functools.lru_cache(create_report), "it is a callable object; write a function that calls it"),
        (5, "'int' cannot be a task: it is not a function; decorate a def or async def"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_only_a_plain_function_can_be_a_task(candidate, words):
    """The error is raised at registration and states what to write instead."""
    with pytest.raises(TaskError) as caught:
        check_callable(candidate)

    assert words in str(caught.value)


def test_coroutine_cannot_be_a_task():
    """The message explains that the function was called by mistake, as in `fire.task(fetch())`."""
    coroutine = fetch()

    with pytest.raises(TaskError, match=r"it is a coroutine, the result of a call; pass the function itself"):
        check_callable(coroutine)

    coroutine.close()
