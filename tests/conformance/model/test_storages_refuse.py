"""The effects of each broken variant of the model, and the tests of the kit that detect them."""

from __future__ import annotations

import pytest

from firelock.model.state import State
from firelock.testing import StorageConformance
from firelock.testing.conformance.race import ROUNDS, race
from firelock.testing.conformance.scene import Handles, Scene, deletes, opener
from tests.conformance.model.variants import REFUSALS


@pytest.mark.parametrize("names", REFUSALS.values(), ids=REFUSALS)
def test_every_test_in_refusals_exists_in_the_kit(names):
    """The kit contains each test that `REFUSALS` lists for a broken variant of the model.

    If a storage cannot detect the fault, the entry names the responsible party.
    """
    assert all(hasattr(StorageConformance, name) for name in names.split() if name.startswith("test_"))


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_dead_session_never_has_a_job(kind, tmp_path):
    """A session is marked dead and loses its jobs in one operation, so no read returns a state in between."""
    handles = Handles(opener("memory://refusals" if kind == "memory" else f"sqlite:///{tmp_path}/jobs.db"))
    look_at_ends(handles, lambda one: not one.is_alive)


def test_dead_session_with_a_locked_job_is_closing(server_database):
    """If rows can be locked, a dead session is marked as closing until its job is back in its queue."""
    look_at_ends(Handles(opener(server_database.url())), lambda one: not one.is_alive and not one.is_closing)


def look_at_ends(handles, is_over):
    """End sessions, and check with another handle that an ended one never has a job."""
    scene, other = Scene(handles), handles.open()
    for number in range(2 * ROUNDS):
        a = scene.begin(f"a{number}")
        job_id = scene.run(a).id

        def read(session=a.session, job_id=job_id):
            has_ended = any(one.session.id == session and is_over(one) for one in other.list_sessions())
            return has_ended, scene.state(job_id)

        _, seen = race([lambda a=a: scene.lose(a), read])

        assert (True, State.PROCESSING) != seen
        scene.check(job_id, state=State.ENQUEUED, session=None)
        scene.settle(deletes(job_id))
    handles.close()
