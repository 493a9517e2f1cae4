"""The serializer: all that one promises, and that it is worth having."""

from __future__ import annotations

import pytest
from firelock_extras import ZjsonSerializer

from firelock import ArgumentError, JsonSerializer
from firelock.testing import SerializerConformance

LARGE = {"ids": list(range(1_000)), "text": "the same words again, " * 100}


class TestZjson(SerializerConformance):
    """Everything a serializer promises."""

    @pytest.fixture
    def serializer(self):
        return ZjsonSerializer()


def test_a_large_value_is_compressed():
    """What is long and repeats itself takes half of its JSON, or less."""
    text = ZjsonSerializer().dumps(LARGE)

    assert text.startswith("z:")
    assert 2 * len(text) < len(JsonSerializer().dumps(LARGE))


def test_a_small_value_stays_readable():
    """Below the limit it is the JSON that everybody can read."""
    assert '{"a":1}' == ZjsonSerializer().dumps({"a": 1})


def test_a_damaged_compressed_text_is_refused():
    """A changed character, a cut and an addition are seen, whatever they leave."""
    text = ZjsonSerializer().dumps(LARGE)
    middle = len(text) // 2
    changed = text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :]

    for damaged in (changed, text[:-4], text[:middle], text + "AAAA", text + text, text.replace("z:", "z: ")):
        with pytest.raises(ArgumentError):
            ZjsonSerializer().loads(damaged)


def test_a_small_text_does_not_become_a_huge_one():
    """A text that would unpack to more than 64 MiB is refused before it does."""
    import binascii
    import zlib

    packer = zlib.compressobj()
    packed = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(65)) + packer.flush()

    with pytest.raises(ArgumentError, match="above"):
        ZjsonSerializer().loads("z:" + binascii.b2a_base64(packed, newline=False).decode())
