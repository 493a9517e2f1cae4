"""Dates, numbers and bytes as JSON text and back, each exactly; what would change on the way is refused."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Final, TypeAlias
from uuid import UUID

from firelock.fits import mismatch
from firelock.serializer import JsonValue, Misfit

__all__ = ["SCALARS", "Encode"]

Encode: TypeAlias = Callable[[object], JsonValue]
Decode: TypeAlias = Callable[[object], object]

_DURATION: Final = re.compile(r"(-?)PT(\d{1,14})(?:\.(\d{6}))?S", re.ASCII)
_MICROSECOND: Final = timedelta(microseconds=1)


def _encode_datetime(value: object) -> str:
    if type(value) is not datetime:
        raise mismatch(value, datetime)
    offset = value.utcoffset()
    if offset is None:
        advice = "give it a time zone: datetime.now(UTC), value.replace(tzinfo=UTC)"
        raise Misfit("naive datetime", value, advice)
    _check_offset(offset, value)
    return value.isoformat()


def _decode_datetime(stored: object) -> datetime:
    value = datetime.fromisoformat(_text(stored, datetime))
    if value.tzinfo is None:
        raise Misfit("naive datetime", value, "give it an offset")
    return value


def _check_offset(offset: timedelta, value: object) -> None:
    # CPython 3.11 reads an offset of less than a second as UTC, and no zone has one.
    if offset.microseconds:
        raise Misfit("offset from UTC with a fraction of a second", value, "pass value.astimezone(UTC)")


def _encode_date(value: object) -> str:
    if type(value) is not date:
        raise mismatch(value, date)
    return value.isoformat()


def _decode_date(stored: object) -> date:
    return date.fromisoformat(_text(stored, date))


def _encode_time(value: object) -> str:
    if type(value) is not time:
        raise mismatch(value, time)
    offset = value.utcoffset()
    if offset is not None:
        _check_offset(offset, value)
    elif value.tzinfo is not None:
        problem = "time in a zone whose offset depends on the day"
        raise Misfit(problem, value, "pass a datetime, or a naive time")
    return value.isoformat()


def _decode_time(stored: object) -> time:
    return time.fromisoformat(_text(stored, time))


def _encode_timedelta(value: object) -> str:
    if type(value) is not timedelta:
        raise mismatch(value, timedelta)
    seconds, fraction = divmod(abs(value) // _MICROSECOND, 1_000_000)
    sign = "-" if value < timedelta() else ""
    return f"{sign}PT{seconds}.{fraction:06d}S" if fraction else f"{sign}PT{seconds}S"


def _decode_timedelta(stored: object) -> timedelta:
    found = _DURATION.fullmatch(_text(stored, timedelta))
    if found is None:
        raise Misfit("not a duration like PT90.500000S", stored)
    value = timedelta(seconds=int(found[2]), microseconds=int(found[3] or 0))
    return -value if found[1] else value


def _encode_uuid(value: object) -> str:
    if type(value) is not UUID:
        raise mismatch(value, UUID)
    return str(value)


def _decode_uuid(stored: object) -> UUID:
    return UUID(_text(stored, UUID))


def _encode_decimal(value: object) -> str:
    if type(value) is not Decimal:
        raise mismatch(value, Decimal)
    if not value.is_finite():
        raise Misfit("Decimal that is not finite", value, "pass None or a text")
    return str(value)


def _decode_decimal(stored: object) -> Decimal:
    value = Decimal(_text(stored, Decimal))
    if not value.is_finite():
        raise Misfit("Decimal that is not finite", value)
    return value


def _encode_bytes(value: object) -> str:
    if type(value) is not bytes:
        raise mismatch(value, bytes)
    return b64encode(value).decode()


def _decode_bytes(stored: object) -> bytes:
    return b64decode(_text(stored, bytes), validate=True)


def _text(stored: object, kind: type) -> str:
    if type(stored) is not str:
        raise mismatch(stored, kind)
    return stored


SCALARS: Final[dict[type, tuple[Encode, Decode]]] = {
    date: (_encode_date, _decode_date),
    datetime: (_encode_datetime, _decode_datetime),
    time: (_encode_time, _decode_time),
    timedelta: (_encode_timedelta, _decode_timedelta),
    UUID: (_encode_uuid, _decode_uuid),
    Decimal: (_encode_decimal, _decode_decimal),
    bytes: (_encode_bytes, _decode_bytes),
}
"""How each is stored: ISO 8601 for time (an offset, no zone name), base64 for bytes, text for the others."""
