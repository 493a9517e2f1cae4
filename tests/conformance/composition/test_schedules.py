"""Every counter-example of a broken form, played on storages, where it must succeed."""

from __future__ import annotations

import pytest

from firelock.plugins.loader import open_storage
from tests.redis.programs import programs_of_groups

from .batch_variants import VARIANTS
from .schedules import BatchSchedule, CallSchedule, StepSchedule, counter_examples

_SCENES = {variant.name: variant.scene for variant in VARIANTS}
_KINDS = {"batches": BatchSchedule, "steps": StepSchedule, "calls": CallSchedule}
_TRAILS = [(kind, name) for kind in _KINDS for name in counter_examples(kind)]


class Schedules:
    """The trails on one storage."""

    @pytest.mark.parametrize(("kind", "name"), _TRAILS, ids=[name for _, name in _TRAILS])
    def test_counter_example_of_a_broken_form_succeeds(self, storage_url, kind, name):
        """All guarantees hold after each move, and all jobs that can continue run until they end."""
        scene = (_SCENES[name],) if kind == "batches" else ()
        schedule = _KINDS[kind](lambda: open_storage(storage_url), *scene)

        try:
            schedule.play(counter_examples(kind)[name])
        finally:
            schedule.close()


class TestMemorySchedules(Schedules):
    @pytest.fixture
    def storage_url(self):
        return "memory://schedules"


class TestSqliteSchedules(Schedules):
    @pytest.fixture
    def storage_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/jobs.db"


@pytest.mark.heavy("each trail on each server; the kit has looked at it before")
@pytest.mark.parametrize("program", programs_of_groups(), indirect=True, scope="module")
class TestRedisSchedules(Schedules):
    @pytest.fixture
    def storage_url(self, server):
        server.empty()
        return server.url()


class TestClusterSchedules(Schedules):
    @pytest.fixture
    def storage_url(self, cluster):
        cluster.empty()
        return cluster.url("partitions=16")


class TestPostgresqlSchedules(Schedules):
    @pytest.fixture
    def storage_url(self, postgresql):
        return postgresql.url()


class TestMariadbSchedules(Schedules):
    @pytest.fixture
    def storage_url(self, mariadb):
        return mariadb.url()
