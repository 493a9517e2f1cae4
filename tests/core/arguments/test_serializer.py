"""Strict JSON: a written value is restored as an equal value or refused, with and without orjson."""

from __future__ import annotations

import subprocess
import sys
from enum import IntEnum, StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firelock.arguments.serializer import JsonSerializer, Serializer, check_json
from firelock.errors import ArgumentError, ConfigurationError


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


def short(value):
    return ascii(value)[:24] if isinstance(value, str) else type(value).__name__


@pytest.fixture(params=[True, False], ids=["orjson", "standard-library"])
def serializer(request):
    return JsonSerializer(use_orjson=request.param)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [float("nan")]}, "non-finite number nan at $.a[0]"),
        ({"a": 2**63}, "integer out of range: 64 bits; must be -2^63 to 2^63 - 1 at $.a"),
        ([-(2**63) - 1], "integer out of range: 64 bits; must be -2^63 to 2^63 - 1 at $[0]"),
        (10**5000, "integer out of range: 16610 bits; must be -2^63 to 2^63 - 1 at $"),
        ({"a": {"b": "x\0"}}, "NUL character in string at $.a.b"),
        ({"x\0": 1}, "NUL character in string at $['x\\x00']"),
        ({"a b": ["\ud800"]}, "lone surrogate in string (character 0) at $['a b'][0]"),
        ({"a": {1: 2}}, "an object's key must be str, got int at $.a"),
        ({None: 2}, "an object's key must be str, got NoneType None at $"),
        ({Text("a"): 2}, "an object's key must be str, got Text at $"),
        ({"a": (1, 2)}, "tuple is not a JSON type at $.a"),
        ({"a": Colour.RED}, "Colour is not a JSON type at $.a"),
        ({"a": Text("x")}, "Text is not a JSON type at $.a"),
    ],
    ids=short,
)
def test_value_that_cannot_be_restored_is_refused_with_its_path(serializer, value, words):
    """The serializer refuses the same values, with the same messages, with and without orjson."""
    with pytest.raises(ArgumentError) as caught:
        serializer.dumps(value)

    assert words == str(caught.value)


def test_long_shallow_value_is_read(serializer):
    """Containers next to each other do not add to the depth."""
    value = [{"a": [1]}] * 100

    assert value == serializer.loads(serializer.dumps(value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a":[NaN]}', "non-finite number NaN at $.a[0]"),
        ('{"a":[1e400]}', "non-finite number inf at $.a[0]"),
        ("9223372036854775808", "integer out of range: 64 bits; must be -2^63 to 2^63 - 1 at $"),
        (
            '{"a":18446744073709551616}',
            "integer out of range: 20 digits; must be -2^63 to 2^63 - 1 at $.a",
        ),
        ("9" * 5000, "integer out of range: 5000 digits; must be -2^63 to 2^63 - 1 at $"),
        ('{"a":{"b":1,"b":2}}', "duplicate key 'b' at $.a"),
        ('"\\u0000"', "NUL character in string at $"),
        ('{"a":"\\ud800"}', "lone surrogate in string (character 0) at $.a"),
        ("[" * 65 + "]" * 65, f"nested deeper than 64 levels, or contains itself at ${'[0]' * 64}"),
        ("[" * 100_000 + "]" * 100_000, "nested deeper than 64 levels"),
        ("", "not JSON: Expecting value at character 0"),
        ("[1,]", "not JSON: Illegal trailing comma before end of array at character 2"),
        ('{"a":1} x', "not JSON: Extra data at character 8"),
        ("\ufeff1", "not JSON: Expecting value at character 0"),
    ],
    ids=short,
)
def test_tampered_json_is_refused_with_its_location(serializer, text, words):
    """JSON that the serializer never writes raises the same ArgumentError with and without orjson."""
    if "trailing comma" in words and sys.version_info < (3, 13):
        words = "not JSON: Expecting value at character 3"

    with pytest.raises(ArgumentError) as caught:
        serializer.loads(text)

    assert words == str(caught.value)


def test_bytes_are_refused(serializer):
    """The storage decodes stored bytes; the serializer accepts only strings."""
    with pytest.raises(ArgumentError, match="must be a JSON string, got bytes"):
        serializer.loads(b"1")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (' { "b" : 1.0 , "a" : [ ] } ', {"b": 1.0, "a": []}),
        ("1E5", 1e5),
        ('"\\u00e9\\ud83d\\ude00"', "é😀"),
        ("9223372036854775807", 2**63 - 1),
        ('"\\\\u0000"', "\\u0000"),
        (
            '{"__class__":"os.system","py/object":"x","$type":"y"}',
            {"__class__": "os.system", "py/object": "x", "$type": "y"},
        ),
    ],
)
def test_json_of_other_writers_is_read_as_plain_values(serializer, text, value):
    """White space, escapes, other number formats and keys with a special meaning elsewhere are plain JSON."""
    back = serializer.loads(text)

    assert repr(value) == repr(back)


@given(text=st.text('[]{}",:0123456789.eE+-aNInfty\\ud\0 ', max_size=60))
def test_results_with_and_without_orjson_are_equal(text):
    """For any string, the result is either an equal value or an ArgumentError with an equal message."""
    answers = []
    for use_orjson in (True, False):
        try:
            answers.append(repr(JsonSerializer(use_orjson=use_orjson).loads(text)))
        except ArgumentError as error:
            answers.append(str(error))

    assert answers[0] == answers[1]


@given(text=st.text())
def test_check_json_agrees_with_unicode(text):
    """A string is accepted if and only if it can be encoded and contains no NUL."""
    try:
        allowed = "\0" not in text and bool(text.encode() or True)
    except UnicodeEncodeError:
        allowed = False

    try:
        check_json([text])
        passed = True
    except ArgumentError:
        passed = False

    assert allowed == passed


@pytest.mark.parametrize("name", ["", "JSON", "a b", "x" * 33, "a/b", "json\n", 7])
def test_serializer_name_that_cannot_be_stored_is_refused(name):
    """Names must be short, lowercase and simple, because they are stored in every row."""
    with pytest.raises(ConfigurationError, match="must be 1 to 32 characters from a-z 0-9"):
        type("Custom", (Serializer,), {"name": name})


def test_importing_the_module_loads_neither_orjson_nor_cattrs():
    """Applications import the module even if they do not use it, so the import must be cheap."""
    code = (
        "import sys, firelock.arguments.serializer; "
        "print({'orjson', 'cattrs', 'typing_extensions'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    expected = "set()"
    assert expected == done.stdout.strip()


def test_standard_library_is_used_without_orjson(monkeypatch):
    """A missing orjson is an error only if it was requested."""
    monkeypatch.setitem(sys.modules, "orjson", None)

    expected = '{"a":[1]}'
    assert expected == JsonSerializer().dumps({"a": [1]})
    with pytest.raises(ConfigurationError, match=r"requires orjson. Install firelock\[fast\]"):
        JsonSerializer(use_orjson=True).dumps(1)
