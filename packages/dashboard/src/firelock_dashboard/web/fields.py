"""The declared fields of a query or a body.

A route lists its fields. The dashboard uses the declaration of a field to check a request before the view
runs, to read the value in the view, and to describe the field in the OpenAPI document.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Generic, TypeVar, overload
from urllib.parse import parse_qsl

import attrs

from firelock_dashboard.problems import BadRequest

T = TypeVar("T")
C = TypeVar("C", bound=str)

_FIELDS = 2_000
_TEXT = 200  # the maximum number of characters, unless the field has another limit
SPAN_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}  # seconds
_INTEGER, _SPAN = re.compile(r"-?[0-9]{1,18}"), re.compile(r"([0-9]{1,7})([smhdw])")
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?")
_SPAN_SHAPE = "a duration such as 90s, 15m, 2h, 3d or 1w"
_MOMENT_SHAPE = "a time with a zone, such as 2026-11-25T14:30:00+03:00"
_NAME = 60  # the maximum number of characters of an unknown name in a message
_SHOWN = 40  # the maximum number of characters of a value in a message
_DIGITS = 20  # the maximum number of digits of a JSON integer; a longer one is out of range for every field
_WORDS = {
    "true": True,
    "1": True,
    "on": True,
    "yes": True,
    "false": False,
    "0": False,
    "off": False,
    "no": False,
}


# ---- declarations ----------------------------------------------------------------------------------------


@attrs.frozen
class Field(ABC, Generic[T]):
    """The declaration of a field: its name, its type and its meaning."""

    name: str
    doc: str = ""  # the description for the OpenAPI document
    is_required: bool = attrs.field(default=False, kw_only=True)
    may_be_empty: bool = attrs.field(default=False, kw_only=True)  # whether it may be empty on a strict route
    default: T | None = attrs.field(default=None, kw_only=True)  # the value if the field is not sent

    reads_empty: ClassVar[bool] = False  # whether an empty value is parsed; otherwise it counts as not sent

    @property
    def limit(self) -> int:
        """The maximum number of characters."""
        return _TEXT

    @property
    def is_stripped(self) -> bool:
        """Whether spaces around the value are removed."""
        return True

    @abstractmethod
    def parse(self, text: str, name: str) -> T:
        """Return the value of a string that is not empty.

        Raises:
            BadRequest: If the string is not of this type; the message starts with `name`.
        """

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the type."""

    def text_of(self, value: object, name: str) -> str:
        """Return a JSON value as the string that a form would have sent.

        Raises:
            BadRequest: If the value has another JSON type than this field.
        """
        if not isinstance(value, str):
            raise BadRequest(f"{name} must be a JSON string, got {_kind(value)}.")
        return value

    def trimmed(self, text: str) -> str:
        """Return the string without spaces around it, unless they are part of the value."""
        return text.strip() if self.is_stripped else text

    def read(self, text: str, name: str) -> T | None:
        """Return the value of a string; None if it is empty.

        Raises:
            BadRequest: If the string is too long, is not valid UTF-8, or is not of this type.
        """
        value = self.trimmed(text)
        if len(value) > self.limit:
            raise BadRequest(f"{name} must have at most {self.limit} characters, got {len(value)}.")
        if not _is_unicode(value):
            raise BadRequest(f"{name} must be valid UTF-8; remove invalid bytes and lone surrogates.")
        if "\0" in value:
            raise BadRequest(f"{name} must not contain a NUL character; remove it.")
        return self.parse(value, name) if value or self.reads_empty else None

    def holds(self, name: str) -> bool:
        """Return whether a sent name belongs to this field."""
        return name == self.name

    def combine(self, sent: Sequence[tuple[str, str]]) -> T | None:
        """Return the value from the sent names and strings of this field; None if there are none.

        Raises:
            BadRequest: If a string is not of this type.
        """
        return next((self.read(text, name) for name, text in sent), None)


@attrs.frozen
class Text(Field[str]):
    """A string."""

    _limit: int = attrs.field(default=_TEXT, kw_only=True, alias="limit")
    _is_stripped: bool = attrs.field(default=True, kw_only=True, alias="is_stripped")

    @property
    def limit(self) -> int:
        """See `Field.limit`."""
        return self._limit

    @property
    def is_stripped(self) -> bool:
        """See `Field.is_stripped`."""
        return self._is_stripped

    def parse(self, text: str, name: str) -> str:  # noqa: ARG002 - any string is valid
        """See `Field.parse`."""
        return text

    def schema(self) -> dict[str, Any]:
        """See `Field.schema`."""
        return {"type": "string", "maxLength": self.limit}


@attrs.frozen
class Cursor(Text):
    """The cursor from a page of results; the view refuses a string that is not such a cursor."""

    _limit: int = attrs.field(default=4_000, kw_only=True, alias="limit")


@attrs.frozen
class Texts(Field[list[str]]):
    """A list of strings; a form repeats the field."""

    most: int = attrs.field(default=500, kw_only=True)  # values

    def parse(self, text: str, name: str) -> list[str]:  # noqa: ARG002 - any string is valid
        """See `Field.parse`."""
        return [text]

    def combine(self, sent: Sequence[tuple[str, str]]) -> list[str] | None:
        """See `Field.combine`."""
        return [one for name, text in sent for one in self.read(text, name) or ()] or None

    def schema(self) -> dict[str, Any]:
        """See `Field.schema`."""
        return {"type": "array", "items": {"type": "string", "maxLength": self.limit}, "maxItems": self.most}


@attrs.frozen
class Named(Field[Mapping[str, str]]):
    """All fields whose names start with a prefix, for example `args.user_id` for `args.NAME`."""

    _limit: int = attrs.field(default=100_000, kw_only=True, alias="limit")

    reads_empty = True

    @property
    def prefix(self) -> str:
        """The prefix of the names."""
        return self.name.removesuffix("NAME")

    @property
    def limit(self) -> int:
        """See `Field.limit`."""
        return self._limit

    def parse(self, text: str, name: str) -> Mapping[str, str]:
        """See `Field.parse`."""
        return {name.removeprefix(self.prefix): text}

    def schema(self) -> dict[str, Any]:
        """See `Field.schema`."""
        return {"type": ["string", "number", "boolean"]}

    def text_of(self, value: object, name: str) -> str:
        """See `Field.text_of`."""
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            return str(value)
        if isinstance(value, str):
            return value
        raise BadRequest(f"{name} must be a JSON string, number or boolean, got {_kind(value)}.")

    def holds(self, name: str) -> bool:
        """See `Field.holds`."""
        return name.startswith(self.prefix)

    def combine(self, sent: Sequence[tuple[str, str]]) -> Mapping[str, str] | None:
        """See `Field.combine`."""
        return {key: one for name, text in sent for key, one in (self.read(text, name) or {}).items()}


@attrs.frozen
class Choice(Field[C]):
    """One of several words, which may be the members of an enumeration."""

    choices: Sequence[C] = attrs.field(kw_only=True, converter=tuple)

    def parse(self, text: str, name: str) -> C:
        """See `Field.parse`."""
        for choice in self.choices:
            if choice == text:
                return choice
        raise BadRequest(f"{name} must be one of {', '.join(self.choices)}, got {_cut(text)}.")

    def schema(self) -> dict[str, Any]:
        """See `Field.schema`."""
        return {"type": "string", "enum": [str(choice) for choice in self.choices]}


@attrs.frozen
class Flag(Field[bool]):
    """A boolean, which is one of eight words in upper or lower case or, in JSON, true or false."""

    reads_empty = True

    def parse(self, text: str, name: str) -> bool:
        """See `Field.parse`."""
        value = _WORDS.get(text.lower())
        if value is None:
            raise BadRequest(
                f"{name} must be true, 1, on or yes, or false, 0, off or no, got {_cut(text)}. "
                "Remove the field if it must not apply."
            )
        return value

    def schema(self) -> dict[str, Any]:
        """See `Field.schema`."""
        return {"type": "boolean"}

    def text_of(self, value: object, name: str) -> str:
        """See `Field.text_of`."""
        if not isinstance(value, bool):
            raise BadRequest(f"{name} must be true or false in JSON, got {_kind(value)}.")
        return str(value).lower()


@attrs.frozen
class Integer(Field[int]):
    """An integer within bounds."""

    least: int = attrs.field(kw_only=True)
    most: int = attrs.field(kw_only=True)

    def parse(self, text: str, name: str) -> int:
        """See `Field.parse`."""
        if not _INTEGER.fullmatch(text) or not self.least <= int(text) <= self.most:
            raise BadRequest(f"{name} must be an integer from {self.least} to {self.most}, got {_cut(text)}.")
        return int(text)

    def schema(self) -> dict[str, Any]:
        """See `Field.schema`."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}

    def text_of(self, value: object, name: str) -> str:
        """See `Field.text_of`."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadRequest(
                f"{name} must be a JSON integer from {self.least} to {self.most}, got {_kind(value)}."
            )
        return str(value)


@attrs.frozen
class Number(Field[float]):
    """A number of at least zero, with or without decimals."""

    most: float = attrs.field(kw_only=True)

    def parse(self, text: str, name: str) -> float:
        """See `Field.parse`."""
        if not _NUMBER.fullmatch(text) or not 0 <= float(text) <= self.most:
            raise BadRequest(f"{name} must be a number from 0 to {self.most:g}, got {_cut(text)}.")
        return float(text)

    def schema(self) -> dict[str, Any]:
        """See `Field.schema`."""
        return {"type": "number", "minimum": 0, "maximum": self.most}

    def text_of(self, value: object, name: str) -> str:
        """See `Field.text_of`."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadRequest(f"{name} must be a JSON number from 0 to {self.most:g}, got {_kind(value)}.")
        return str(value)


@attrs.frozen
class Span(Field[timedelta]):
    """A duration such as 15m."""

    def parse(self, text: str, name: str) -> timedelta:
        """See `Field.parse`."""
        found = _SPAN.fullmatch(text)
        if found is None:
            raise BadRequest(f"{name} must be {_SPAN_SHAPE}, got {_cut(text)}.")
        return timedelta(seconds=int(found[1]) * SPAN_UNITS[found[2]])

    def schema(self) -> dict[str, Any]:
        """See `Field.schema`."""
        return {"type": "string", "pattern": f"^{_SPAN.pattern}$"}


@attrs.frozen
class Moment(Field[datetime]):
    """An aware time in ISO 8601."""

    def parse(self, text: str, name: str) -> datetime:
        """See `Field.parse`."""
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise BadRequest(f"{name} must be {_MOMENT_SHAPE}, got {_cut(text)}.") from error
        if moment.tzinfo is None:
            raise BadRequest(f"{name} must have a zone; add Z or an offset such as +03:00 to {_cut(text)}.")
        try:
            moment.astimezone(UTC)
        except OverflowError as error:
            raise BadRequest(
                f"{name} must be within the years 1 to 9999 in UTC, got {_cut(text)}."
            ) from error
        return moment

    def schema(self) -> dict[str, Any]:
        """See `Field.schema`."""
        return {"type": "string", "format": "date-time"}


@attrs.frozen
class SpanOrMoment(Field[timedelta | datetime]):
    """A duration from now, with or without a plus sign, or an aware time."""

    def parse(self, text: str, name: str) -> timedelta | datetime:
        """See `Field.parse`."""
        span = text.removeprefix("+")
        if _SPAN.fullmatch(span):
            return Span(self.name).parse(span, name)
        try:
            return Moment(self.name).parse(text, name)
        except BadRequest as error:
            raise BadRequest(f"{error} Or send {_SPAN_SHAPE}.") from error

    def schema(self) -> dict[str, Any]:
        """See `Field.schema`."""
        return {"type": "string"}


# ---- sent fields -----------------------------------------------------------------------------------------


class SentFields:
    """The fields of a request, which a view reads with their declarations.

    An invalid value raises `BadRequest`, whose message names the field.
    """

    def __init__(
        self, pairs: Iterable[tuple[str, str]], *, values: Mapping[str, object] | None = None
    ) -> None:
        self._values: dict[str, list[object]] = {}  # the sent strings, or the values of a JSON object
        self._is_json = values is not None
        self._declared: Mapping[str, Field[Any]] | None = None  # None before `check`, and for plugins
        for name, value in pairs if values is None else values.items():
            self._values.setdefault(name, []).append(value)

    @classmethod
    def parse(cls, text: str) -> SentFields:
        """Return the fields of an urlencoded string.

        Raises:
            BadRequest: If there are more fields than in any form of the dashboard.
        """
        try:  # invalid UTF-8 is reported later, with the name of its field
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_FIELDS, errors="surrogateescape")
        except ValueError as error:
            raise BadRequest(f"Cannot read the fields: {error}; send at most {_FIELDS} fields.") from error
        return cls(pairs)

    @classmethod
    def parse_json(cls, body: bytes) -> SentFields:
        """Return the fields of a JSON object.

        Raises:
            BadRequest: If the body is not such an object.
        """
        try:
            value = json.loads(body, object_pairs_hook=_once, parse_int=_integer)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"The body must be JSON: {error}.") from error
        if not isinstance(value, dict) or len(value) > _FIELDS:
            raise BadRequest(f"The body must be a JSON object of at most {_FIELDS} fields.")
        return cls((), values=value)

    def check(
        self,
        fields: Sequence[Field[Any]],
        *,
        is_strict: bool = False,
        left: Collection[Field[Any]] = (),
    ) -> None:
        """Check that each sent field is declared, sent once, and of its type.

        Args:
            fields: the declarations.
            is_strict: whether to refuse empty fields, because a filter without a value would match all
                objects.
            left: the fields whose types are not checked here, because the view shows invalid values.

        Raises:
            BadRequest: If a field is unknown, repeated, missing, or of another type.
        """
        self._declared = {field.name: field for field in fields}
        found = {name: self._declared_as(name, fields) for name in self._values}
        for name, field in found.items():
            for text in self._texts(field, name):
                may_be_empty = field.may_be_empty or field.reads_empty or not is_strict
                if not may_be_empty and not field.trimmed(text):
                    raise BadRequest(f"{name} must not be empty; set a value, or remove the field.")
                if field in left:
                    Text(name, limit=field.limit).read(text, name)
                else:
                    field.read(text, name)
        for field in fields:
            if field.is_required and not any(map(field.trimmed, self._texts(field, field.name))):
                raise _missing(field)

    def _declared_as(self, name: str, fields: Sequence[Field[Any]]) -> Field[Any]:
        for field in fields:
            if field.holds(name) and _is_unicode(name) and "\0" not in name:
                return field
        raise BadRequest(_unknown(name, [field.name for field in fields]))

    def _texts(self, field: Field[Any], name: str) -> list[str]:
        """Return the strings that were sent for a field; only a list may have more than one."""
        given = self._values.get(name, [])
        is_list = isinstance(field, Texts)
        if self._is_json and is_list and given:
            if not isinstance(given[0], list) or not given[0]:
                raise BadRequest(f"{name} must be a JSON list of strings, got {_kind(given[0])}.")
            given = given[0]
        if not is_list and len(given) > 1:
            raise BadRequest(f"{name} must be sent once, got {len(given)} values; remove the others.")
        if isinstance(field, Texts) and len(given) > field.most:
            raise BadRequest(f"{name} must have at most {field.most} values, got {len(given)}.")
        if self._is_json:
            return [field.text_of(value, name) for value in given]
        return [str(value) for value in given]

    @overload
    def maybe(self, field: Field[T]) -> T | None: ...
    @overload
    def maybe(self, field: str, *, limit: int = ...) -> str | None: ...
    def maybe(self, field: Field[Any] | str, *, limit: int = _TEXT) -> Any:
        """Return the value of a field, or None if it was not sent or is empty.

        Pages of plugins, which declare no fields, read strings by name.
        """
        if isinstance(field, str):
            field = Text(field, limit=limit)
        if self._declared is not None and self._declared.get(field.name) != field:
            raise LookupError(f"The route does not declare {field!r}; add it to the route.")
        names = [name for name in self._values if field.holds(name)]
        return field.combine([(name, text) for name in names for text in self._texts(field, name)])

    def value(self, field: Field[T]) -> T:
        """Return the value of a field, or else its default.

        Raises:
            BadRequest: If the field was not sent or is empty, and has no default.
        """
        found = self.maybe(field)
        found = field.default if found is None else found
        if found is None:
            raise _missing(field)
        return found

    def text(self, field: Field[Any]) -> str:
        """Return the unparsed string of a field, or an empty string if it was not sent."""
        return next((field.trimmed(text) for text in self._texts(field, field.name)), "")

    def __contains__(self, field: Field[Any]) -> bool:
        """Return whether a field was sent, empty or not."""
        return field.name in self._values

    def pairs(self) -> list[tuple[str, str]]:
        """Return the sent names and values, for sending them again."""
        return [
            (name, value if isinstance(value, str) else json.dumps(value))
            for name, values in self._values.items()
            for given in values
            for value in (given if isinstance(given, list) else [given])
        ]


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _missing(field: Field[Any]) -> BadRequest:
    return BadRequest(f"{field.name} is missing; send it.")


def _cut(text: str) -> str:
    return repr(text[:_SHOWN])


def _kind(value: object) -> str:
    """Return the description of a JSON value for a message."""
    match value:
        case None:
            return "null; remove the field instead"
        case bool():
            return str(value).lower()
        case str():
            return f"the string {value[:_SHOWN]!a}"
        case list():
            return "a list" if value else "an empty list"
        case dict():
            return "an object"
        case _:
            return f"the number {value}"


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name[:_NAME], known, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    fields = f"The fields are {', '.join(sorted(known))}." if known else "No fields are allowed here."
    return f"Unknown field {name[:_NAME]!a}. {hint}{fields}"


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the object; refuse two values for one name, because only one of them could be used."""
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise BadRequest(f"{name[:_NAME]!a} must not be repeated in the JSON object; send it once.")
        found[name] = value
    return found


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)
