"""Job ids: unique, in the order of their creation, and recognizable by their format."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
import uuid
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firelock.model import ids
from firelock.model.ids import derived_id, is_newest_first_key, new_id, new_ids, newest_first_key


def test_an_id_is_a_uuid_of_version_7():
    """A new id is an RFC 9562 UUID, version 7, in the usual string form."""
    made = uuid.UUID(text := new_id())

    assert (7, uuid.RFC_4122, str(made)) == (made.version, made.variant, text)


def test_an_id_carries_the_time_it_was_made():
    """The first 48 bits are the current time in milliseconds."""
    before = time.time_ns() // 1_000_000
    made = [uuid.UUID(new_id()) for _ in range(3)]
    after = time.time_ns() // 1_000_000

    assert all(before <= one.int >> 80 <= after + 1 for one in made)


def test_ids_ascend_also_when_the_clock_is_set_back(monkeypatch):
    """Each id follows the last one, whatever the clock shows, alone or among many."""
    last = time.time_ns() * 4096 // 1_000_000 + (3_600_000 << 12)
    monkeypatch.setattr(ids, "_last", last)

    made = [new_id(), *new_ids(3), new_id()]

    assert [last + 1 + place for place in range(5)] == [
        (uuid.UUID(id).int >> 80) << 12 | uuid.UUID(id).int >> 64 & 0xFFF for id in made
    ]


def test_ids_made_by_many_threads_differ_and_ascend_in_each():
    """Concurrent threads never get the same id, and the ids of each thread ascend."""
    threads_count, each = 4, 2_000
    barrier = threading.Barrier(threads_count)
    made = [[] for _ in range(threads_count)]

    def make(own):
        barrier.wait()
        own.extend(new_id() for _ in range(each))

    threads = [threading.Thread(target=make, args=(own,)) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert threads_count * each == len({id for own in made for id in own})
    assert all(sorted(own) == own for own in made)


def test_a_seeded_program_makes_new_ids_all_the_same():
    """Seeding the global generator does not make the random parts of two ids equal."""
    tails = []
    for _ in range(2):
        random.seed(7)
        tails.append(new_id()[19:])

    assert tails[0] != tails[1]


def test_a_forked_child_makes_ids_of_its_own():
    """Parent and child draw different random parts after a fork, and the child can still create ids."""
    code = (
        "import os\nfrom firelock.model.ids import new_id\n"
        "child = os.fork()\nif child: os.waitpid(child, 0)\nprint(new_id(), flush=True)"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    of_child, of_parent = run.stdout.split()
    assert of_child[19:] != of_parent[19:]


@given(parts=st.lists(st.text(), min_size=1, max_size=4))
def test_the_same_parts_give_the_same_id(parts):
    """A derived id depends only on its parts, and has the format of an id."""
    made = derived_id(*parts)

    assert derived_id(*parts) == made
    assert str(UUID(made)) == made


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a",), ("a", "")),
    ],
)
def test_other_parts_give_another_id(one, other):
    """The value, order, number and boundaries of the parts matter."""
    assert derived_id(*one) != derived_id(*other)


def test_a_derived_id_never_changes():
    """Servers of different versions derive the same id, so the result must never change."""
    assert "a9fa59a1-e5f3-594a-a3e6-14e4b9fe5280" == derived_id("nightly", "1764028800000000")


def test_many_ids_at_once_ascend_and_differ():
    """A batch of ids is ordered between the ids created before and after it."""
    before = new_id()

    many = new_ids(2_000)

    every = [before, *many, new_id()]
    assert every == sorted(every)
    assert len(every) == len(set(every))
    assert all(str(UUID(one)) == one and one[14] == "7" and one[19] in "89ab" for one in many)


# ---- keys that list the newest first ---------------------------------------------------------------------


def test_keys_of_records_sort_the_newest_first():
    """The order is by time, from the first year to the last. Of equal times, the last created is first."""
    instants = [-62_135_596_800_000_000, -1, 0, 1, 1_764_000_000_000_000, 253_402_300_799_999_999]
    keys = [newest_first_key(at) for at in instants for _ in range(3)]

    assert keys == sorted(keys, reverse=True)
    assert all(is_newest_first_key(key) for key in keys)


@pytest.mark.parametrize(
    "text", ["", "nobody", "1" * 51, pytest.param(newest_first_key(0) + "\n", id="key-and-newline"), None, 7]
)
def test_what_is_no_such_key_is_told(text):
    """A string that is not such a key never reaches a storage."""
    assert not is_newest_first_key(text)
