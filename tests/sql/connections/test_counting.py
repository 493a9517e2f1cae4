"""The folding of differences into the counts, and the position at which reads start after a slow read."""

from __future__ import annotations

import pytest

from firelock.storage import State
from firelock_sql import storage
from firelock_sql.connections.counting import Folding
from tests.scenes import scene_at


class Clock:
    """A clock that advances by `step` seconds per reading."""

    def __init__(self):
        self.seconds, self.step = 0.0, 0.0

    def __call__(self):
        self.seconds += self.step
        return self.seconds


@pytest.fixture
def scene(postgresql):
    """A storage with helpers for jobs."""
    with scene_at(postgresql.url("listen=off")) as scene:
        yield scene


@pytest.fixture
def clock():
    return Clock()


def add_singly(scene, number=200):
    """Add this number of jobs, each with its own difference."""
    for _ in range(number):
        scene.add()


def places(admin):
    """Return the numbers of the remaining differences."""
    return {row[0] for row in admin.execute("SELECT seq FROM firelock_count_deltas")}


def enqueued(scene):
    """Return the number of jobs that are counted."""
    return scene.storage.counts().by_state[State.ENQUEUED]


def test_fold_is_skipped_for_few_differences(scene, admin, clock):
    """Fewer than 200 differences are not folded, because reading them takes almost no time."""
    database, folding = scene.storage._database, Folding(clock)  # noqa: SLF001 - this routine of upkeep alone
    add_singly(scene, 199)
    folding.run(database)
    assert 199 == len(places(admin))

    scene.add()
    folding.run(database)

    assert set() == places(admin)
    assert 200 == enqueued(scene)


def test_fold_run_is_bounded(scene, admin, clock):
    """Due jobs wait until a run ends, so it is bounded, and the next run continues.

    It ends even earlier if its folds are slow.
    """
    database, folding = scene.storage._database, Folding(clock)  # noqa: SLF001 - see above
    admin.execute(
        "INSERT INTO firelock_count_deltas (state, queue, jobs)"
        " SELECT 'enqueued', 'default', 1 FROM generate_series(1, 30000)"
    )
    left = []

    for clock.step in (0.0, 1.0, 0.0):
        folding.run(database)
        left.append(len(places(admin)))

    assert left == [10_000, 5_000, 0]
    assert enqueued(scene) == 30_000


def test_clients_fold_if_no_server_runs(scene, admin, monkeypatch):
    """Each call adds a difference, and without a server, nothing else would fold these differences."""
    monkeypatch.setattr(storage, "FOLD_EVERY", 300)

    add_singly(scene, 600)

    assert len(places(admin)) <= 300
    assert enqueued(scene) == 600


def test_failing_fold_does_not_affect_stored_jobs(scene, admin, monkeypatch):
    """The jobs are already stored when the call starts the fold."""
    monkeypatch.setattr(storage, "FOLD_EVERY", 1)
    admin.execute("ALTER TABLE firelock_counts RENAME TO firelock_away")
    try:
        add_singly(scene, 250)
    finally:
        admin.execute("ALTER TABLE firelock_away RENAME TO firelock_counts")

    assert enqueued(scene) == 250


def test_after_a_slow_read_only_newer_differences_are_read(scene, admin, clock):
    """If a long transaction adds a difference with a lower number, only the next full read reads it.

    Until then, the difference is still counted.
    """
    database, folding = scene.storage._database, Folding(clock)  # noqa: SLF001 - see above
    add_singly(scene)
    first = min(places(admin))
    clock.step = 1.0
    folding.run(database)
    clock.step = 0.0
    admin.execute(
        "INSERT INTO firelock_count_deltas (seq, state, queue, jobs)"
        " SELECT %s - place, 'enqueued', 'default', 1 FROM generate_series(1, 200) AS place",
        (first,),
    )

    folding.run(database)
    assert 200 == len(places(admin))
    assert 400 == enqueued(scene)

    add_singly(scene)
    folding.run(database)
    assert set(range(first - 200, first)) == places(admin)

    clock.seconds += 41.0
    folding.run(database)
    assert set() == places(admin)
    assert 600 == enqueued(scene)
