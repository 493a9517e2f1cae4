"""The serializer: it fulfils the contract, and it saves space."""

from __future__ import annotations

import pytest
from firelock_extras import ZjsonSerializer

from firelock import ArgumentError, JsonSerializer
from firelock.testing import SerializerConformance

LARGE = {"ids": list(range(1_000)), "text": "the same words again, " * 100}


class TestZjson(SerializerConformance):
    """The contract of a serializer."""

    @pytest.fixture
    def serializer(self):
        return ZjsonSerializer()


def test_large_value_is_compressed():
    """A long and repetitive value has at most half the size of its JSON."""
    text = ZjsonSerializer().dumps(LARGE)

    assert text.startswith("z:")
    assert 2 * len(text) < len(JsonSerializer().dumps(LARGE))


def test_small_value_stays_readable():
    """The result is plain JSON if the value is smaller than the limit."""
    assert '{"a":1}' == ZjsonSerializer().dumps({"a": 1})


def test_damaged_compressed_string_is_refused():
    """Every changed, truncated or extended string is detected."""
    text = ZjsonSerializer().dumps(LARGE)
    middle = len(text) // 2
    changed = text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :]

    for damaged in (changed, text[:-4], text[:middle], text + "AAAA", text + text, text.replace("z:", "z: ")):
        with pytest.raises(ArgumentError):
            ZjsonSerializer().loads(damaged)


def test_string_that_unpacks_to_a_huge_one_is_refused():
    """A string that would be larger than 64 MiB when unpacked is refused before it is unpacked."""
    import binascii
    import zlib

    packer = zlib.compressobj()
    packed = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(65)) + packer.flush()

    with pytest.raises(ArgumentError, match="above"):
        ZjsonSerializer().loads("z:" + binascii.b2a_base64(packed, newline=False).decode())
