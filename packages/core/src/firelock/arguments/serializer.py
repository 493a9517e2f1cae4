"""The interface of serializers, which convert arguments and results to strings, and the JSON serializer."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from math import isfinite
from typing import Any, ClassVar, Final, NoReturn, TypeAlias, cast

from firelock.errors import ArgumentError, ConfigurationError

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

MAX_DEPTH: Final = 64
_Pair: TypeAlias = tuple[Callable[[JsonValue], str], Callable[[str], JsonValue]]

_MIN_INTEGER: Final = -(2**63)
_MAX_INTEGER: Final = 2**63 - 1
_MAX_DIGITS: Final = 19
_SHOWN: Final = 64
_NAME: Final = re.compile(r"[a-z0-9_.-]{1,32}")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Misfit(ArgumentError):
    """An error for a value that is not strict JSON, or does not match its annotation.

    `path` is the position of the value, and `culprit` is the value itself.
    """

    def __init__(
        self, problem: str, culprit: object, advice: str | None = None, *, expected: str | None = None
    ) -> None:
        super().__init__(problem)
        self.expected = expected  # the annotation, if the value does not have its type
        self.problem = problem
        self.culprit = culprit
        self.advice = advice
        """The fix; None if it depends only on the type of the culprit."""
        self.segments: list[str | int] = []
        """The path in reverse: each function that the error passes through appends one segment."""

    def under(self, segment: str | int) -> Misfit:
        """Add one segment to the front of the error's path and return the error."""
        self.segments.append(segment)
        return self

    @property
    def path(self) -> str:
        """The path in JSON path notation, `$.a[0]`."""
        return "$" + "".join(map(_path_segment, reversed(self.segments)))

    def __str__(self) -> str:
        return f"{self.problem} at {self.path}"


def check_json(value: object) -> None:
    """Check that a value is strict JSON.

    Strict JSON consists only of None, bool, int, float, str, list, and dict with str keys. Numbers must be
    finite, integers must fit in 64 bits, strings must be valid Unicode without NUL, and containers must be
    nested at most 64 levels deep.

    Raises:
        ArgumentError: A part of the value is not strict JSON. The message contains its JSON path.
    """
    _check(value, MAX_DEPTH)


def _check(value: object, depth: int) -> None:
    kind = type(value)
    if kind is dict:
        _check_object(cast("dict[object, object]", value), depth)
    elif kind is list:
        _check_array(cast("list[object]", value), depth)
    elif kind is str:
        _check_text(cast("str", value))
    elif kind is int:
        _check_integer(cast("int", value))
    elif kind is float:
        if not isfinite(cast("float", value)):
            raise Misfit(f"non-finite number {value}", value)
    elif kind is not bool and value is not None:
        if kind is _Unfit:
            raise Misfit(cast("_Unfit", value).problem, value)
        raise Misfit(f"{kind.__name__} is not a JSON type", value)


def _check_object(value: dict[object, object], depth: int) -> None:
    if depth <= 0:
        _refuse_depth(value)
    key: object = None
    try:
        for key, item in value.items():
            if type(key) is not str or "\0" in key or not key.isascii():
                _check_key(key, value)
            if type(item) is str:  # these two checks are inlined because the types are the most common
                if "\0" in item or not item.isascii():
                    _check_text(item)
            elif type(item) is int:
                if not _MIN_INTEGER <= item <= _MAX_INTEGER:
                    _check_integer(item)
            else:
                _check(item, depth - 1)
    except Misfit as misfit:
        if type(key) is str:
            misfit.under(key)
        raise


def _check_key(key: object, owner: object) -> None:
    if type(key) is not str:
        shown = f" {key}" if key is None or type(key) is bool else ""
        raise Misfit(f"an object's key must be str, got {type(key).__name__}{shown}", owner)
    _check_text(key)


def _check_array(value: list[object], depth: int) -> None:
    if depth <= 0:
        _refuse_depth(value)
    done = 0
    try:
        for item in value:
            _check(item, depth - 1)
            done += 1
    except Misfit as misfit:
        misfit.under(done)
        raise


def _check_text(value: str) -> None:
    if "\0" in value:
        raise Misfit("NUL character in string", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Misfit(f"lone surrogate in string (character {error.start})", value) from error


def _check_integer(value: int) -> None:
    if not _MIN_INTEGER <= value <= _MAX_INTEGER:
        # The message omits the integer because Python cannot format integers with thousands of digits.
        bits = value.bit_length()
        raise Misfit(f"integer out of range: {bits} bits; must be -2^63 to 2^63 - 1", value)


def _refuse_depth(value: object) -> NoReturn:
    raise Misfit(f"nested deeper than {MAX_DEPTH} levels, or contains itself", value)


def _path_segment(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    if _IDENTIFIER.fullmatch(key) or (key.startswith("*") and _IDENTIFIER.fullmatch(key.lstrip("*"))):
        return f".{key}"
    return f"[{key[:_SHOWN]!a}]"


class Serializer(ABC):
    """The interface for converting JSON values to strings and back.

    The serializer's name is stored with each job, so an app can change its serializer while jobs wait. An
    implementation must restore an equal value for every strict JSON value, must raise `ArgumentError` for a
    string that it did not write, and must be thread-safe.
    """

    name: ClassVar[str]
    """The name, `[a-z0-9_.-]{1,32}`. Its meaning must not change after jobs are stored with it."""

    is_strict: ClassVar[bool] = False
    """Whether `dumps` and `loads` reject all values that `check_json` rejects; if not, the core checks it."""

    def __init_subclass__(cls) -> None:
        """Reject a name that cannot be stored."""
        super().__init_subclass__()
        name = cls.__dict__.get("name")
        if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise ConfigurationError(
                f"The name of serializer {cls.__name__} must be 1 to 32 characters from a-z 0-9 _ . -, got "
                f"{name!r}"
            )

    @abstractmethod
    def dumps(self, value: JsonValue) -> str:
        """Return the value as a string.

        Unless `is_strict` is true, the core has checked that the value is strict JSON.

        Raises:
            ArgumentError: The value cannot be written.
        """

    @abstractmethod
    def loads(self, text: str) -> JsonValue:
        """Return the value from which the string was created.

        Raises:
            ArgumentError: The string is damaged, forged or from another serializer.
        """


class JsonSerializer(Serializer):
    """The serializer for strict, compact JSON in UTF-8.

    It rejects values that would not be equal after decoding on every platform and storage. It uses orjson if
    that is installed, and otherwise the standard library; both accept and reject the same values.
    `use_orjson` forces one of the two; None uses orjson if it can be imported.
    """

    name = "json"
    is_strict = True

    def __init__(self, *, use_orjson: bool | None = None) -> None:
        self._use_orjson = use_orjson
        self._writer: Callable[[JsonValue], str] | None = None
        self._reader: Callable[[str], JsonValue] | None = None

    def dumps(self, value: JsonValue) -> str:
        """Return the value as compact JSON, in about 0.4 µs for a small object.

        Raises:
            ArgumentError: The value is not strict JSON. The message contains the JSON path.
        """
        _check(value, MAX_DEPTH)
        writer = self._writer or self._choose()[0]
        return writer(value)

    def loads(self, text: str) -> JsonValue:
        """Return the value of the string, in about 0.5 µs for a small object that this class wrote.

        Raises:
            ArgumentError: The string is not strict JSON. The message contains the character or the JSON path.
        """
        reader = self._reader or self._choose()[1]
        return reader(text)

    def _choose(self) -> _Pair:
        """Choose orjson or the standard library.

        The choice is made at the first use, so that importing this module is cheap.
        """
        pair: _Pair = (_write_strict, _read_strict)
        if self._use_orjson is not False:
            try:
                pair = _fast_pair()
            except ImportError as error:
                if self._use_orjson:
                    raise ConfigurationError(
                        "JsonSerializer(use_orjson=True) requires orjson. Install firelock[fast]."
                    ) from error
        self._writer, self._reader = pair
        return pair


def _fast_pair() -> _Pair:
    import orjson  # noqa: PLC0415 - optional, and needed only at the first use

    dumps, loads = orjson.dumps, orjson.loads
    safe_integers = orjson.OPT_STRICT_INTEGER
    shallow = 2 * MAX_DEPTH  # a shorter string cannot be nested too deep

    def write(value: JsonValue) -> str:
        return dumps(value).decode()

    def read(text: str) -> JsonValue:
        # orjson keeps the last of two equal keys and converts large integers to floats. In both cases, the
        # string is different when the value is written again, so a string that stays the same is valid. Any
        # other string is read by the strict, slow reader.
        try:
            value = loads(text)
            same = dumps(value, None, safe_integers).decode() == text
        except (TypeError, ValueError):
            return _read_strict(text)
        if not same or "\\u0000" in text:
            return _read_strict(text)
        if len(text) > shallow and text.count("[") + text.count("{") > MAX_DEPTH:
            return _read_strict(text)
        return cast("JsonValue", value)

    return write, read


def _write_strict(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class _Unfit:
    """A placeholder for an invalid part of a parsed value; `_check` finds it and reports its position."""

    __slots__ = ("problem",)

    def __init__(self, problem: str) -> None:
        self.problem = problem


def _parse_object(pairs: list[tuple[str, object]]) -> object:
    parsed = dict(pairs)
    if len(parsed) == len(pairs):
        return parsed
    seen: set[str] = set()
    twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return _Unfit(f"duplicate key {twice[:_SHOWN]!a}")


def _parse_integer(digits: str) -> object:
    if len(digits.lstrip("-")) > _MAX_DIGITS:
        return _Unfit(f"integer out of range: {len(digits)} digits; must be -2^63 to 2^63 - 1")
    return int(digits)


def _parse_constant(name: str) -> object:
    return _Unfit(f"non-finite number {name}")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_parse_object, parse_int=_parse_integer, parse_constant=_parse_constant
)


def _read_strict(text: str) -> JsonValue:
    """Return the value of a JSON string from any writer after a full check, in several µs for a small object.

    Raises:
        ArgumentError: The string is not strict JSON. The message contains the character or the JSON path.
    """
    if not isinstance(text, str):
        raise ArgumentError(f"must be a JSON string, got {type(text).__name__}")
    try:
        value: Any = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ArgumentError(f"not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise ArgumentError(f"nested deeper than {MAX_DEPTH} levels") from error
    _check(value, MAX_DEPTH)
    return cast("JsonValue", value)
