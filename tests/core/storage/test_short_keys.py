"""Keys of any length in rows with short keys: the same rows in the same order."""

from __future__ import annotations

import random

import pytest

from firelock.errors import StorageError
from firelock.storage.short_keys import LONGEST_KEY, ShortKeys, scan_after


class Rows(dict):
    """Rows in memory that refuse a key of more than 500 bytes."""

    def get(self, key):
        return super().get(fitting(key))

    def put(self, key, value):
        self[fitting(key)] = value

    def delete(self, key):
        self.pop(fitting(key), None)

    def scan(self, prefix, *, start=None, reverse=False, limit):
        assert not reverse
        assert limit > 0
        keys = sorted(key for key in self if key.startswith(fitting(prefix)) and key != prefix)
        return [(key, self[key]) for key in keys if start is None or key > fitting(start)][:limit]


def fitting(key):
    """Return the key after checking its length."""
    assert len(key.encode(errors="surrogatepass")) <= LONGEST_KEY, key
    return key


def key_of(chance):
    """Return a key whose length is near a cut, with few different characters so that many prefixes agree."""
    stem = "r/" + "a" * chance.choice([0, 3, 480, 490, 492, 493, 494, 495, 496, 940])
    end = "".join(chance.choices("aé東\U0001f525\U0010ffff\U00010000", k=chance.randint(0, 4)))
    return stem + end + "b" * chance.choice([0, 0, 1, 500, 1_200])


@pytest.mark.parametrize("seed", range(40))
def test_rows_with_long_keys_behave_like_a_dictionary(seed):
    """After random puts and deletes, every key is read and scanned as in a plain dictionary."""
    chance = random.Random(seed)
    rows, plain = Rows(), {}
    keys = [key_of(chance) for _ in range(60)]
    long_keys = ShortKeys(rows)

    for number in range(150):
        key = chance.choice(keys)
        if chance.random() < 0.6:
            long_keys.put(key, str(number))
            plain[key] = str(number)
        else:
            long_keys.delete(key)
            plain.pop(key, None)
        chosen, limit = chance.choice(keys), chance.randint(1, 70)
        prefix = chosen[: chance.randint(2, len(chosen))]  # at least "r/", so all rows of the test
        start = chance.choice([None, chance.choice(keys), prefix])
        expected = [
            (key, value)
            for key, value in sorted(plain.items())
            if key.startswith(prefix) and key != prefix and (start is None or key > start)
        ]

        assert plain.get(key) == long_keys.get(key)
        assert expected[:limit] == long_keys.scan(prefix, start=start, limit=limit)

    for key in keys:
        long_keys.delete(key)
    assert {} == rows


def test_short_key_is_stored_unchanged():
    """A key of up to 496 bytes is stored as one row with that key."""
    rows = Rows()

    ShortKeys(rows).put("é" * 248, "value")

    assert {"é" * 248: "value"} == rows


def test_key_that_is_not_valid_utf_8_is_not_found():
    """A string with lone surrogates, which users can paste into a URL, finds nothing."""
    long_keys = ShortKeys(Rows())

    assert long_keys.get("r/" + "\ud800" * 700) is None
    assert [] == long_keys.scan("r/" + "\ud800" * 700, limit=10)


def test_scan_that_returns_its_start_is_refused():
    """If scans returned their start key, reading all pages would never end."""

    class Inclusive(Rows):
        def scan(self, prefix, *, start=None, reverse=False, limit):
            return [(start, "")] if start else super().scan(prefix, limit=limit)

    with pytest.raises(StorageError, match="must return only rows after it"):
        scan_after(Inclusive(), "r/", "r/a", limit=5)
    with pytest.raises(StorageError, match="must return only rows after it"):
        ShortKeys(Inclusive()).scan("r/", start="r/a", limit=5)
