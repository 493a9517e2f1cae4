"""What a request's query or form says, checked: every number has bounds, every choice its list."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeVar
from urllib.parse import parse_qsl

from firelock_dashboard.problems import BadRequest

C = TypeVar("C", bound=StrEnum)

_FIELDS = 2_000
_TEXT = 200  # characters, where a field says nothing else
SPAN_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}  # seconds
_NUMBER, _SPAN = re.compile(r"-?[0-9]{1,9}"), re.compile(r"([0-9]{1,7})([smhdw])")
_NAME = 60  # characters of a name that is unknown


class SentFields:
    """The fields of a query or a form, each read by name; a wrong one raises `BadRequest` that names it."""

    def __init__(self, pairs: Iterable[tuple[str, str]], *, without_value: Iterable[str] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        self._without_value = list(without_value)  # fields of JSON that are null or an empty list
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    @classmethod
    def parse(cls, text: str) -> SentFields:
        """Return the fields of an urlencoded text.

        Raises:
            BadRequest: it holds more fields than any form here has, or is no UTF-8.
        """
        try:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_FIELDS, errors="strict")
        except (ValueError, UnicodeDecodeError) as error:
            raise BadRequest(
                f"The fields cannot be read: {error}. Send at most {_FIELDS} fields, as UTF-8."
            ) from error
        return cls(pairs)

    @classmethod
    def parse_json(cls, body: bytes) -> SentFields:
        """Return the fields of a JSON object: texts, numbers, booleans, null, and lists of them.

        Raises:
            BadRequest: it is something else.
        """
        try:
            value = json.loads(body, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"The body is no JSON: {error}.") from error
        if not isinstance(value, dict) or len(value) > _FIELDS:
            raise BadRequest(f"The body is no JSON object of at most {_FIELDS} fields; send one.")
        pairs = [
            (name, _plain(name, one))
            for name, given in value.items()
            for one in (given if isinstance(given, list) else [given])
            if one is not None
        ]
        return cls(pairs, without_value=value.keys() - {name for name, _ in pairs})

    def check(self, known: Sequence[str]) -> None:
        """Every field is one of these, and is there once.

        A name with + at its end may be there several times, one with a dot at its end begins others.

        Raises:
            BadRequest: a field is none of them, as one that nobody reads would narrow nothing; or it is there
                several times, and not all of its values could hold.
        """
        single = {name for name in known if name[-1:] not in {"+", "."}}
        several = {name[:-1] for name in known if name.endswith("+")}
        begins = tuple(name for name in known if name.endswith("."))
        for name, values in {**dict.fromkeys(self._without_value, ()), **self._values}.items():
            if name in several:
                continue
            if name not in single and not (begins and name.startswith(begins)):
                raise BadRequest(_unknown(name, [*single, *several]))
            if len(values) > 1:
                raise BadRequest(f"{name} was sent {len(values)} times; send it once.")

    def check_filled(self, names: Iterable[str]) -> None:
        """None of these fields was sent without a value.

        Raises:
            BadRequest: one was, as by a script whose variable is empty: it would narrow nothing.
        """
        for name in names:
            if name in self._without_value or (name in self._values and not self.maybe(name)):
                raise BadRequest(f"{name} is empty, and would narrow nothing; give a value, or leave it out.")

    def __contains__(self, name: str) -> bool:
        """Tell whether the field was sent, empty or not."""
        return name in self._values

    def names(self) -> list[str]:
        """Return the names of the fields that were sent."""
        return list(self._values)

    def every(self, name: str, *, limit: int = 1_000) -> list[str]:
        """Return every value of a field that may be sent several times."""
        values = self._values.get(name, [])
        if len(values) > limit:
            raise BadRequest(f"{name} was sent {len(values)} times; send it at most {limit} times.")
        return values

    def text(self, name: str, default: str = "", *, limit: int = _TEXT) -> str:
        """Return a field's text, stripped; the default where it is missing or empty."""
        values = self._values.get(name, [])
        if len(values) > 1:
            raise BadRequest(f"{name} was sent {len(values)} times; send it once.")
        value = values[0].strip() if values else ""
        if len(value) > limit:
            raise BadRequest(f"{name} has {len(value)} characters; at most {limit} are read.")
        if "\0" in value:
            raise BadRequest(f"{name} holds a NUL character; leave it out.")
        return value or default

    def maybe(self, name: str, *, limit: int = _TEXT) -> str | None:
        """Return a field's text, None where it is missing or empty."""
        return self.text(name, limit=limit) or None

    def required(self, name: str, *, limit: int = _TEXT) -> str:
        """Return a field's text; a missing or empty one is refused."""
        if value := self.text(name, limit=limit):
            return value
        raise BadRequest(f"{name} is missing; give it.")

    def number(self, name: str, default: int, *, least: int, most: int) -> int:
        """Return a whole number within its bounds."""
        if not (value := self.text(name)):
            return default
        if not _NUMBER.fullmatch(value):
            raise BadRequest(f"{name}={value[:40]!r} is no whole number from {least} to {most}.")
        if not least <= int(value) <= most:
            raise BadRequest(f"{name}={value} is out of its bounds; give {least} to {most}.")
        return int(value)

    def one_of(self, name: str, choices: Sequence[str], default: str) -> str:
        """Return one of the choices."""
        value = self.text(name, default)
        if value not in choices:
            raise BadRequest(f"{name}={value[:40]!r} is unknown; give one of {', '.join(choices)}.")
        return value

    def choice(self, name: str, choices: type[C]) -> C | None:
        """Return a member of the enumeration, None where the field is missing or empty."""
        return choices(self.one_of(name, list(choices), "")) if self.maybe(name) else None

    def flag(self, name: str) -> bool:
        """Tell whether a box is ticked."""
        return self.text(name) in {"1", "on", "true", "yes"}

    def span(self, name: str) -> timedelta | None:
        """Return a span such as 90s, 15m, 2h, 3d, 1w."""
        if not (value := self.text(name)):
            return None
        found = _SPAN.fullmatch(value)
        if found is None:
            raise BadRequest(f"{name}={value[:40]!r} is no span; write 90s, 15m, 2h, 3d or 1w.")
        return timedelta(seconds=int(found[1]) * SPAN_UNITS[found[2]])

    def moment(self, name: str) -> datetime | None:
        """Return an aware instant in ISO form."""
        if not (value := self.text(name)):
            return None
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise BadRequest(
                f"{name}={value[:40]!r} is no instant; write 2026-11-25T14:30:00+03:00."
            ) from error
        if moment.tzinfo is None:
            raise BadRequest(f"{name}={value} has no zone; add Z or an offset as +03:00.")
        try:
            moment.astimezone(UTC)
        except OverflowError as error:
            raise BadRequest(f"{name}={value} is not within the years 1 to 9999 of UTC.") from error
        return moment


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name[:_NAME], known, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    fields = f"Fields are {', '.join(sorted(known))}." if known else "There are no fields."
    return f"The field {name[:_NAME]!a} is unknown here. {hint}{fields}"


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the object; a name that is there twice is refused, as not both of its values could hold."""
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise BadRequest(f"{name[:_NAME]!a} is in the JSON object several times; write it once.")
        found[name] = value
    return found


def _plain(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRequest(f"{name} holds {value}, which is no number of JSON; send a finite one.")
    if isinstance(value, str | int | float):
        return str(value)
    raise BadRequest(f"{name} holds something nested; send texts, numbers, booleans, or lists of them.")
