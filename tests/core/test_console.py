"""What running jobs say: gathered in memory, written in batches, never in the way of their ends."""

from __future__ import annotations

import math
from decimal import Decimal
from itertools import count

import pytest

from firelock.context import Console
from firelock.errors import StorageError, StorageUnavailable
from firelock.values import NewJob, State
from tests.core.fakes import FailingStorage


@pytest.fixture
def console():
    """A console whose clock counts 1, 2, 3."""
    ticks = count(1)
    return Console(lambda: next(ticks))


@pytest.fixture
def storage():
    """A storage with one job, "a"."""
    storage = FailingStorage()
    storage.insert([NewJob("a", "mail.send", "{}", "json", "default", 0, State.ENQUEUED, 0)])
    yield storage
    storage.close()


def texts(storage, job_id="a"):
    """The texts of a job's log."""
    return [line.text for line in storage.read_log(job_id, limit=2_000)]


def test_only_the_newest_progress_is_written(console, storage):
    """A job that reports often costs one write."""
    for done in range(5):
        console.progress("a", done, 5, None)

    console.flush(storage)

    assert [4] == [one.progress.done for one in storage.get(["a"])]


def test_nothing_said_writes_nothing(console, storage):
    """A flush of nothing costs no call, and what was written is not written again."""
    console.flush(storage)
    console.log("a", 1, "debug", "once")
    console.flush(storage)
    console.flush(storage)

    assert (1, ["once"]) == (len(storage.called["append_logs"]), texts(storage))


def test_an_unknown_level_is_refused(console):
    """The message names the level and the four there are."""
    with pytest.raises(ValueError, match="Log level 'fatal' is unknown; use one of debug, info"):
        console.log("a", 1, "fatal", "said")


@pytest.mark.parametrize(
    ("done", "total"),
    [("3", 10), (3, None), (math.nan, 10), (3, math.inf), (Decimal(3), 10), (True, 10), (10**400, 10)],
)
def test_progress_is_made_of_plain_numbers(console, storage, done, total):
    """What cannot be stored as a number is refused in the job, where its author sees it."""
    with pytest.raises(ValueError, match="is no progress; pass two finite numbers, done and total"):
        console.progress("a", done, total, None)

    console.flush(storage)
    assert [None] == [one.progress for one in storage.get(["a"])]


def test_a_long_text_is_cut(console, storage):
    """A line and a progress message keep 4,096 characters, the last of them an ellipsis."""
    console.log("a", 1, "info", "x" * 5_000)
    console.progress("a", 1, 2, "y" * 5_000)

    console.flush(storage)

    assert ["x" * 4_095 + "…"] == texts(storage)
    assert "y" * 4_095 + "…" == storage.get(["a"])[0].progress.message


def test_whatever_is_logged_is_text(console, storage):
    """An object is logged as its text; what no storage takes is made visible."""
    console.log("a", 1, "info", 42)
    console.log("a", 1, "info", "a\0b \ud800")

    console.flush(storage)

    assert ["42", "a\\0b \\ud800"] == texts(storage)


def test_a_job_that_logs_too_fast_keeps_its_newest_lines(console, storage):
    """Above 1,000 waiting lines the oldest go, and the first that is left says how many."""
    for number in range(1_005):
        console.log("a", 1, "info", f"line {number}")

    console.flush(storage)

    written = texts(storage)
    assert (1_000, "(6 lines left out: written too fast)", "line 6") == (len(written), *written[:2])
    assert "line 1004" == written[-1]


def test_lines_wait_while_the_storage_is_away(console, storage):
    """They are written with what comes after them; of progress the newer wins."""
    storage.fail("append_logs", StorageUnavailable("down"))
    for text, done in (("first", 1), ("second", 2)):
        console.log("a", 1, "info", text)
        console.progress("a", done, 2, None)
        if done == 1:
            with pytest.raises(StorageUnavailable):
                console.flush(storage)
            assert [] == texts(storage)
    console.flush(storage)

    assert ["first", "second"] == texts(storage)
    assert [2] == [one.progress.done for one in storage.get(["a"])]


def test_refused_lines_hinder_nothing(console, storage, caplog):
    """Lines that the storage will never take are dropped and said so: jobs' ends wait behind this flush."""
    storage.fail("append_logs", StorageError("value too long"))
    console.log("a", 1, "info", "refused")

    console.flush(storage)
    console.log("a", 1, "info", "taken")
    console.flush(storage)

    assert ["taken"] == texts(storage)
    assert "Log lines of 1 jobs were refused by the storage and are lost" in caplog.text
