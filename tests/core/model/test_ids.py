"""Job ids: unique, ordered by creation, and recognizable by their format."""

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


def test_job_id_is_a_uuid_of_version_7():
    """The id is a string in the format of RFC 9562."""
    made = uuid.UUID(text := new_id())

    assert (7, uuid.RFC_4122, str(made)) == (made.version, made.variant, text)


def test_job_id_contains_its_creation_time():
    """The first 48 bits are the time in milliseconds."""
    before = time.time_ns() // 1_000_000
    made = [uuid.UUID(new_id()) for _ in range(3)]
    after = time.time_ns() // 1_000_000

    assert all(before <= one.int >> 80 <= after + 1 for one in made)


def test_ids_ascend_even_if_the_clock_is_set_back(monkeypatch):
    """Each id is greater than the previous id, no matter how many ids a call creates."""
    last = time.time_ns() * 4096 // 1_000_000 + (3_600_000 << 12)
    monkeypatch.setattr(ids, "_last", last)

    made = [new_id(), *new_ids(3), new_id()]

    assert [last + 1 + place for place in range(5)] == [
        (uuid.UUID(id).int >> 80) << 12 | uuid.UUID(id).int >> 64 & 0xFFF for id in made
    ]


def test_ids_of_threads_are_unique_and_ascend_per_thread():
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


def test_ids_are_random_even_if_random_is_seeded():
    """Seeding the global generator does not make the random parts of two ids equal."""
    tails = []
    for _ in range(2):
        random.seed(7)
        tails.append(new_id()[19:])

    assert tails[0] != tails[1]


def test_forked_process_creates_different_ids():
    """After a fork, the random parts of ids in the parent and the child differ."""
    code = (
        "import os\nfrom firelock.model.ids import new_id\n"
        "child = os.fork()\nif child: os.waitpid(child, 0)\nprint(new_id(), flush=True)"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    of_child, of_parent = run.stdout.split()
    assert of_child[19:] != of_parent[19:]


@given(parts=st.lists(st.text(), min_size=1, max_size=4))
def test_derived_id_depends_only_on_its_parts(parts):
    """The derived id has the format of a job id."""
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
def test_different_parts_give_a_different_id(one, other):
    """The value, order, number and boundaries of the parts matter."""
    assert derived_id(*one) != derived_id(*other)


def test_derived_id_does_not_change_between_versions():
    """Servers of different versions must derive the same id."""
    assert "a9fa59a1-e5f3-594a-a3e6-14e4b9fe5280" == derived_id("nightly", "1764028800000000")


def test_ids_of_one_call_ascend_and_are_unique():
    """The ids are greater than all earlier ids and less than all later ids."""
    before = new_id()

    many = new_ids(2_000)

    every = [before, *many, new_id()]
    assert every == sorted(every)
    assert len(every) == len(set(every))
    assert all(str(UUID(one)) == one and one[14] == "7" and one[19] in "89ab" for one in many)


# ---- keys ordered from newest to oldest ------------------------------------------------------------------


def test_newer_record_keys_sort_first():
    """This applies to all supported years. If keys have equal times, the last created key sorts first."""
    instants = [-62_135_596_800_000_000, -1, 0, 1, 1_764_000_000_000_000, 253_402_300_799_999_999]
    keys = [newest_first_key(at) for at in instants for _ in range(3)]

    assert keys == sorted(keys, reverse=True)
    assert all(is_newest_first_key(key) for key in keys)


@pytest.mark.parametrize(
    "text", ["", "nobody", "1" * 51, pytest.param(newest_first_key(0) + "\n", id="key-and-newline"), None, 7]
)
def test_invalid_record_key_is_recognized(text):
    """Therefore, invalid keys are never passed to a storage."""
    assert not is_newest_first_key(text)
