"""Tests of serializers: values come back equal and of the same types; other strings are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest

from firelock.arguments.serializer import MAX_DEPTH, JsonValue, Serializer
from firelock.errors import ArgumentError
from firelock.testing.conformance.kit import REPORTED, Conformance
from firelock.testing.conformance.race import race

_GOOD: dict[str, JsonValue] = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "one": 1,
    "float one": 1.0,
    "negative zero": -0.0,
    "smallest float": 5e-324,
    "largest float": 1.7976931348623157e308,
    "third": 1 / 3,
    "largest integer": 2**63 - 1,
    "smallest integer": -(2**63),
    "beyond doubles": 2**53 + 1,
    "empty text": "",
    "text of a number": "1",
    "quotes": "\"'\\/ \b\f\n\r\t",
    "unicode": "İstanbul ñ 東京 \U0001f525 \x7f\x1f",
    "line ends": "\u2028\u2029\ufeff",
    "empty list": [],
    "empty object": {},
    "mixed": [1, 1.0, "1", True, None, [], {}],
    "nested": {"a": {"b": [{"c": [[]]}]}},
    "special keys": {"": 1, " ": 2, "a.b": 3, "é": 4, "null": None, "__proto__": {}, "$ref": "x"},
    "long text": "é" * 40_000,
    "many": list(range(5_000)),
}

_BAD: dict[str, object] = {
    "nan": float("nan"),
    "infinity": [float("inf")],
    "minus infinity": {"a": float("-inf")},
    "integer above 64 bits": 2**63,
    "integer below 64 bits": -(2**63) - 1,
    "huge integer": 10**5_000,
    "nul": "a\0b",
    "nul in a key": {"a\0": 1},
    "lone surrogate": "\ud800",
    "tuple": (1, 2),
    "set": {1},
    "bytes": b"x",
    "integer key": {1: "a"},
    "null key": {None: "a"},
    "object": object(),
}

_FORGED = {
    "empty": "",
    "white": " ",
    "no value": "nothing",
    "open list": "[1, 2",
    "open text": '"abc',
    "trailing comma": "[1,]",
    "two values": "1 2",
    "not a number": "NaN",
    "infinity": "[Infinity]",
    "single quotes": "{'a': 1}",
    "a key twice": '{"a":1,"a":2}',
    "a key twice, inside": '[{"a":{"b":1,"b":1}}]',
    "integer above 64 bits": "9223372036854775808",
    "many digits": "1" * 5_000,
    "too deep": "[" * 100 + "]" * 100,
    "far too deep": "[" * 100_000 + "]" * 100_000,
    "nul": '"a\\u0000b"',
    "lone surrogate": '"\\ud800"',
    "python": "(1, 2)",
    "bytes order mark": "\ufeff1",
}


def _shape(value: object) -> object:
    """Return the value with its types, so that 1, 1.0 and True differ, and so do 0.0 and −0.0."""
    match value:
        case dict():
            return {key: _shape(one) for key, one in value.items()}
        case list():
            return [_shape(one) for one in value]
        case _:
            return type(value).__name__, repr(value)


def _deep(depth: int) -> JsonValue:
    value: JsonValue = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


class SerializerConformance(Conformance):
    """Tests of a serializer.

    Define the fixture `serializer`: an instance that the hook `register_serializers` offers.
    """

    @pytest.fixture
    def serializer(self) -> Serializer:
        """Return the serializer."""
        raise NotImplementedError(f"{type(self).__name__} must define the fixture serializer.")

    @pytest.fixture(autouse=True)
    def _is_reported(self, serializer: Serializer, request: pytest.FixtureRequest) -> None:
        request.node.user_properties.append((REPORTED, f"serializer {serializer.name}"))

    @pytest.fixture
    def refuses(self, serializer: Serializer) -> Callable[[object], None]:
        """Return a function that checks that a value is refused when it is written.

        If a serializer is not strict, the core checks the values instead.
        """
        if not serializer.is_strict:
            pytest.skip("is_strict is False: the core checks values before they are written")

        def refuse(value: object) -> None:
            with pytest.raises(ArgumentError):
                serializer.dumps(value)  # type: ignore[arg-type]

        return refuse

    def test_serializer_name_can_be_stored(self, serializer: Serializer) -> None:
        """The name of a serializer has 1 to 32 characters from a–z, 0–9, `_`, `.` and `-`.

        If this fails: a job cannot store how its arguments were written.
        """
        assert re.fullmatch(r"[a-z0-9_.-]{1,32}", serializer.name)

    @pytest.mark.parametrize("value", _GOOD.values(), ids=_GOOD)
    def test_value_is_read_back_equal(self, serializer: Serializer, value: JsonValue) -> None:
        """Every strict JSON value comes back equal and of the same types.

        If this fails: a task is called with other arguments than those that were enqueued.
        """
        back = serializer.loads(serializer.dumps(value))

        assert _shape(value) == _shape(back)

    def test_random_values_are_read_back_equal(self, serializer: Serializer) -> None:
        """Random strict JSON values come back equal, and equal again after a second round.

        If this fails: Hypothesis prints the smallest value that does not come back equal.
        """
        pytest.importorskip("hypothesis", reason="needs hypothesis: install firelock[testing]")
        from hypothesis import given, settings
        from hypothesis import strategies as st

        text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
        leaves = (
            st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | text
            | st.floats(allow_nan=False, allow_infinity=False)
        )  # fmt: skip
        values = st.recursive(
            leaves,
            lambda one: st.lists(one, max_size=5) | st.dictionaries(text, one, max_size=5),
            max_leaves=20,
        )

        @settings(max_examples=200, deadline=None, derandomize=True, database=None)
        @given(values)
        def comes_back(value: JsonValue) -> None:
            back = serializer.loads(serializer.dumps(value))
            assert _shape(value) == _shape(back) == _shape(serializer.loads(serializer.dumps(back)))

        comes_back()

    def test_written_string_can_be_stored(self, serializer: Serializer) -> None:
        """Every written string is valid Unicode without NUL, of at most twice the bytes of its JSON plus 256.

        If this fails: a storage refuses the arguments, or they exceed their limit.
        """
        for value in _GOOD.values():
            text = serializer.dumps(value)
            assert isinstance(text, str)
            assert "\0" not in text
            assert len(text.encode()) <= 2 * len(json.dumps(value).encode()) + 256

    def test_value_of_maximum_depth_is_read_back_equal(self, serializer: Serializer) -> None:
        """A value with 64 nested containers comes back equal.

        If this fails: the documented limit is not the real one.
        """
        value = _deep(MAX_DEPTH)

        assert value == serializer.loads(serializer.dumps(value))

    def test_value_above_maximum_depth_is_refused(self, refuses: Callable[[object], None]) -> None:
        """A value with 65 nested containers is refused, and so is a list that contains itself.

        If this fails: a value can be written but not read, or writing never ends.
        """
        endless: list[object] = []
        endless.append(endless)

        refuses(_deep(MAX_DEPTH + 1))
        refuses(endless)

    @pytest.mark.parametrize("value", _BAD.values(), ids=_BAD)
    def test_value_that_is_not_strict_json_raises_argument_error(
        self, refuses: Callable[[object], None], value: object
    ) -> None:
        """A value that is not strict JSON raises `ArgumentError` instead of being changed.

        If this fails: a tuple silently comes back as a list, NaN as null, or a key as a string.
        """
        refuses(value)

    @pytest.mark.parametrize("text", _FORGED.values(), ids=_FORGED)
    def test_forged_string_raises_argument_error(self, serializer: Serializer, text: str) -> None:
        """A string that the serializer would never write raises `ArgumentError`, and no other error.

        If this fails: a damaged row stops a server's loop, or a job runs with other arguments.
        """
        with pytest.raises(ArgumentError):
            serializer.loads(text)

    def test_damaged_string_raises_argument_error(self, serializer: Serializer) -> None:
        """A string that was truncated or extended raises `ArgumentError`.

        If this fails: some of the arguments are mistaken for all of them.
        """
        text = serializer.dumps({"day": "monday", "ids": [1, 2, 3]})

        for damaged in (text[:-1], text[: len(text) // 2], text + "x", text + text):
            with pytest.raises(ArgumentError):
                serializer.loads(damaged)

    def test_writing_does_not_change_the_value(self, serializer: Serializer) -> None:
        """Writing a value does not change it, and writing it again gives a string with the same value.

        The string may be different each time; with encryption it must be.

        If this fails: enqueueing changes the caller's data.
        """
        for value in _GOOD.values():
            before = deepcopy(value)
            first = serializer.dumps(value)

            assert _shape(before) == _shape(value)
            assert _shape(serializer.loads(first)) == _shape(serializer.loads(serializer.dumps(value)))

    def test_concurrent_threads_get_their_own_values(self, serializer: Serializer) -> None:
        """Eight threads that write and read at the same time get their own values.

        If this fails: two jobs get each other's arguments.
        """

        def work(number: int) -> bool:
            value: JsonValue = {"number": number, "text": str(number) * 200}
            return all(value == serializer.loads(serializer.dumps(value)) for _ in range(100))

        assert [True] * 8 == race([partial(work, number) for number in range(8)])
