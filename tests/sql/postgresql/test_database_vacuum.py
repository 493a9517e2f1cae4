"""PostgreSQL's settings for each table: rows that change constantly do not leave dead versions for long."""

from __future__ import annotations

import psycopg
import pytest

from firelock.storage import Renewal
from firelock.testing import eventually
from tests.scenes import scene_at

OPTIONS = "SELECT relname, reloptions FROM pg_class WHERE relname LIKE 'firelock%' AND reloptions IS NOT NULL"


@pytest.fixture
def scene(postgresql):
    """A storage with helpers for jobs."""
    with scene_at(postgresql.url()) as scene:
        yield scene


def test_changing_tables_are_vacuumed_early(scene, postgresql):
    """The schema sets the thresholds.

    By default, a vacuum starts after a fifth of a large table has changed, which would be far too late.
    """
    scene.add()
    with psycopg.connect(postgresql.url()) as connection:
        found = {name: dict(one.split("=") for one in all_) for name, all_ in connection.execute(OPTIONS)}

    assert "0.02" == found["firelock_jobs"]["autovacuum_vacuum_scale_factor"]
    for name in ("firelock_counts", "firelock_count_deltas", "firelock_sessions", "firelock_locks"):
        assert ("0", "1000") == (
            found[name]["autovacuum_vacuum_scale_factor"], found[name]["autovacuum_vacuum_threshold"]
        )  # fmt: skip


def test_renewals_do_not_change_the_indexes(scene, postgresql):
    """The row of a renewed session stays on its page, and the next renewal reuses the space on this page."""
    holder = scene.begin()
    for _ in range(50):
        scene.storage.renew([Renewal(holder.session, busy=1)])
    scene.storage.close()  # connections report their statistics when they are closed

    def changes():
        with psycopg.connect(postgresql.url()) as connection:
            query = (
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'firelock_sessions'"
            )
            found = connection.execute(query).fetchone()
            return found if found[0] >= 50 else None

    changed, in_place = eventually(changes)

    assert changed == in_place
