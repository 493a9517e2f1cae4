"""What each broken variant of the model would let happen, tried on the storages themselves.

One test for each refusal that a storage keeps, named after it; the last test sees that none is missing.
"""

from __future__ import annotations

import pytest

from firelock.storage import Applied, ClaimRequest, Feature, Held, Renewal
from firelock.testing.conformance.ends import deletes, hands_back, requeues, succeeds
from firelock.testing.conformance.handles import HOUR, Handles, opener
from firelock.testing.conformance.race import race
from firelock.testing.conformance.scene import Running, Scene
from firelock.values import State
from tests.conformance.model.session_model import REFUSALS, Keeper

_SHORT = 30.0  # a session's timeout that an hour outlives
_ROUNDS = 25


@pytest.fixture(params=["memory", "sqlite"])
def scene(request, tmp_path):
    """Return an empty storage of each kind."""
    url = "memory://refusals" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"
    handles = Handles(opener(url))
    yield Scene(handles)
    handles.close()


def held(running):
    """Return what a child that runs this job names when it reconciles."""
    return [Held(running.id, running.job.fence)]


def holder_of(scene, job_id):
    """Return who holds the job, as stored."""
    record = scene.record(job_id)
    return record.state, record.session, record.fence


# ---- guards ----------------------------------------------------------------------------------------------


def test_the_same_session_never_settles_with_an_old_fence(scene):
    """A hand-back that is sent again after the job was claimed anew is refused."""
    a = scene.begin("a")
    first = scene.run(a)
    scene.settle(hands_back(first))
    scene.run(a, first.id)

    result = scene.apply(hands_back(first))

    assert Applied.REFUSED == result
    assert (State.PROCESSING, a.session, 2) == holder_of(scene, first.id)


def test_an_ended_session_never_settles_what_another_has_claimed(scene):
    """A late success of a dead holder does not end another's run."""
    a, b = scene.begin("a"), scene.begin("b")
    first = scene.run(a)
    scene.storage.end_session(a.session, [first.id], reason="died")
    scene.run(b, first.id)

    result = scene.apply(succeeds(first))

    assert Applied.REFUSED == result
    assert (State.PROCESSING, b.session, 2) == holder_of(scene, first.id)


def test_an_attempt_number_given_back_opens_no_guard(scene):
    """Two claims may have the same attempt number, never the same fence."""
    a = scene.begin("a")
    first = scene.run(a)
    scene.settle(hands_back(first))
    second = scene.run(a, first.id)

    result = scene.apply(succeeds(first))

    assert first.job.attempt == second.job.attempt
    assert Applied.REFUSED == result
    assert (State.PROCESSING, a.session, 2) == holder_of(scene, first.id)


def test_a_deleted_job_accepts_no_end_of_its_holder(scene):
    """The end of a job that was deleted meanwhile is refused, and clears the tail."""
    a = scene.begin("a")
    first = scene.run(a)
    scene.settle(deletes(first.id))

    result = scene.apply(succeeds(first))

    assert Applied.REFUSED == result
    assert (State.DELETED, None) == holder_of(scene, first.id)[:2]


def test_a_repeated_settle_is_already_applied(scene):
    """An end whose answer was lost is sent again: told as applied, written once."""
    first = scene.run(scene.begin("a"))
    scene.settle(succeeds(first))

    result = scene.apply(succeeds(first))

    assert Applied.ALREADY == result
    assert [State.ENQUEUED, State.SUCCEEDED] == [step.state for step in scene.history(first.id)]


# ---- sessions --------------------------------------------------------------------------------------------


def test_a_dead_session_is_never_renewed(scene):
    """Who was declared dead stays dead, however often it asks."""
    a = scene.begin("a", _SHORT)
    first = scene.run(a)
    scene.advance(HOUR / 1_000_000)
    scene.storage.orphans(10)

    renewed = [scene.storage.renew([Renewal(a.session)]), scene.storage.renew([Renewal(a.session)])]

    assert [[False], [False]] == renewed
    assert (State.ENQUEUED, None) == holder_of(scene, first.id)[:2]


def test_orphans_takes_nothing_from_a_living_session(scene):
    """A session that was late but has renewed keeps what it holds."""
    a = scene.begin("a", _SHORT)
    first = scene.run(a)
    scene.advance(HOUR / 1_000_000)
    renewed = scene.storage.renew([Renewal(a.session)])

    taken = scene.storage.orphans(10)

    assert [True] == renewed
    assert [] == taken
    assert (State.PROCESSING, a.session, 1) == holder_of(scene, first.id)


def test_an_ended_session_claims_nothing(scene):
    """A claim that was on its way when its session ended takes no job."""
    a, job_id = scene.begin("a"), scene.add()
    scene.storage.end_session(a.session, (), reason="died")

    claim = scene.storage.claim(ClaimRequest(None, 10, a.session, scene.stamp()))

    assert ([], True) == (claim.jobs, claim.is_session_lost)
    assert State.ENQUEUED == scene.state(job_id)


def test_a_claim_beside_the_end_of_its_session_leaves_nothing_behind(scene):
    """Whichever comes first, no job is left processing for the session that ended."""
    other = scene.handles.open()
    for number in range(_ROUNDS):
        a, job_id = scene.begin(f"a{number}"), scene.add()

        race(
            [
                lambda a=a: scene.storage.end_session(a.session, (), reason="died"),
                lambda a=a: other.claim(ClaimRequest(None, 10, a.session, scene.stamp())),
            ]
        )

        assert (State.ENQUEUED, None) == holder_of(scene, job_id)[:2]
        scene.settle(deletes(job_id))


def test_a_session_is_never_dead_with_a_job_in_hand(scene):
    """A session is taken from as it is marked dead: nobody can look in between."""
    other = scene.handles.open()
    for number in range(_ROUNDS):
        a = scene.begin(f"a{number}")
        first = scene.run(a)
        seen = []

        def look(session=a.session, job_id=first.id, seen=seen):
            dead = any(one.session.id == session and not one.is_alive for one in other.list_sessions())
            seen.append((dead, scene.record(job_id).state))

        race([lambda a=a: scene.storage.end_session(a.session, None, reason="died"), look])

        assert (True, State.PROCESSING) not in seen
        assert (State.ENQUEUED, None) == holder_of(scene, first.id)[:2]
        scene.settle(deletes(first.id))


# ---- reconciling -----------------------------------------------------------------------------------------


def test_reconcile_names_the_unknown_and_moves_nothing(scene):
    """The list may be older than a claim whose reply has just arrived, so only the child may hand back."""
    a = scene.begin("a")
    first = scene.run(a)

    told = scene.storage.reconcile(a.session, [])

    assert [first.id] == [job.id for job in told.unknown]
    assert Applied.APPLIED == scene.apply(succeeds(first))


def test_a_claim_whose_reply_was_lost_is_found_again(scene):
    """What the child hands back of it is enqueued, the attempt given back."""
    a, job_id = scene.begin("a"), scene.add()
    scene.claim(a)  # the reply is lost
    (unknown,) = scene.storage.reconcile(a.session, []).unknown

    result = scene.apply(hands_back(Running(unknown, a)))

    record = scene.record(job_id)
    assert Applied.APPLIED == result
    assert (State.ENQUEUED, None, 0) == (record.state, record.session, record.attempt)


def test_reconcile_names_a_tail_that_its_child_does_not_hold(scene):
    """Else a job deleted and requeued behind a lost reply would never be claimable again."""
    a, b, job_id = scene.begin("a"), scene.begin("b"), scene.add()
    scene.claim(a)  # the reply is lost
    scene.settle(deletes(job_id))
    scene.settle(requeues(job_id))
    (unknown,) = scene.storage.reconcile(a.session, []).unknown

    result = scene.apply(hands_back(Running(unknown, a)))

    assert Applied.REFUSED == result
    assert [job_id] == [job.id for job in scene.claim(b)]


def test_a_child_never_sees_what_its_neighbour_holds(scene):
    """Each child has a session of its own; another's jobs are not unknown to it."""
    a, b = scene.begin("a"), scene.begin("b")
    first = scene.run(a)

    told = scene.storage.reconcile(b.session, [])

    assert ([], []) == (told.unknown, told.lost)
    assert (State.PROCESSING, a.session, 1) == holder_of(scene, first.id)


# ---- tails -----------------------------------------------------------------------------------------------


def test_a_deleted_job_keeps_its_holder_until_it_has_stopped(scene):
    """The holder learns that the job is lost to it; until its end is refused its name stays on the row."""
    a = scene.begin("a")
    first = scene.run(a)
    scene.settle(deletes(first.id))

    told = scene.storage.reconcile(a.session, held(first))

    assert held(first) == told.lost
    assert (State.DELETED, a.session, 1) == holder_of(scene, first.id)


@pytest.mark.parametrize("end", ["refused end", "dead session"])
def test_a_job_requeued_under_a_tail_is_not_claimable(scene, end):
    """Two live runs of one job are impossible: the second begins when the first is surely over."""
    a, b = scene.begin("a"), scene.begin("b")
    first = scene.run(a)
    scene.settle(deletes(first.id))
    scene.settle(requeues(first.id))
    early = scene.claim(b)

    if end == "refused end":
        scene.apply(succeeds(first))
    else:
        scene.storage.end_session(a.session, [first.id], reason="died")

    assert [] == early
    assert [first.id] == [job.id for job in scene.claim(b)]


# ---- none is missing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal", [one for one in REFUSALS if one.keeper is Keeper.STORAGE], ids=lambda one: one.name
)
def test_each_refusal_of_a_storage_has_its_test(refusal):
    """A variant added to the model needs its test here."""
    assert f"test_{refusal.name}" in globals()


def test_sqlite_is_opened_twice(tmp_path):
    """The races above run on two handles where the storage is shared."""
    handles = Handles(opener(f"sqlite:///{tmp_path}/jobs.db"))

    assert Feature.SHARED in handles.first.features
    assert handles.open() is not handles.first
    handles.close()
