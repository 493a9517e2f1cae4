"""JSON that is compressed if this makes it shorter."""

from __future__ import annotations

import binascii
import zlib
from typing import ClassVar

from firelock import ArgumentError, JsonSerializer, JsonValue, Serializer

_MARK = "z:"  # no JSON string begins like this
_WORTHWHILE = 512  # characters; shorter strings stay readable
_LONGEST = 1 << 26  # maximum bytes of unpacked JSON


class ZjsonSerializer(Serializer):
    """Strict JSON; strings of 512 characters or more are zlib in base64 after `z:`, unless this is longer."""

    name: ClassVar[str] = "zjson"
    is_strict: ClassVar[bool] = True

    def __init__(self) -> None:
        self._json = JsonSerializer()

    def dumps(self, value: JsonValue) -> str:
        """Return the value as a string."""
        text = self._json.dumps(value)
        if len(text) < _WORTHWHILE:
            return text
        packed = binascii.b2a_base64(zlib.compress(text.encode()), newline=False).decode()
        return min(text, _MARK + packed, key=len)

    def loads(self, text: str) -> JsonValue:
        """Return the value of the string; a small string that would unpack to a huge string is an error."""
        return self._json.loads(_unpacked(text) if text.startswith(_MARK) else text)


def _unpacked(text: str) -> str:
    stream = zlib.decompressobj()
    try:
        packed = binascii.a2b_base64(text.removeprefix(_MARK), strict_mode=True)
        unpacked = stream.decompress(packed, _LONGEST).decode()
    except (ValueError, zlib.error) as error:
        message = f"not a zjson text: {error}"
        raise ArgumentError(message) from error
    if not stream.eof or stream.unused_data:
        message = f"not a zjson text: cut short, with something behind it, or above {_LONGEST:,} bytes"
        raise ArgumentError(message)
    return unpacked
