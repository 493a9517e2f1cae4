"""Called jobs and continuations on a server: the number of round trips, which does not grow with the jobs."""

from __future__ import annotations

import pytest

from firelock.storage import Edge, On, Relations, State
from firelock.testing.conformance.flow_scene import suspends
from firelock.testing.conformance.scene import BASE, HOUR, deletes, fails, requeues, succeeds
from firelock_sql.verbs import children as children_verbs
from firelock_sql.verbs import upkeep
from firelock_sql.verbs.batches import release_batches

FEW = 3
MANY = 120  # more than are read together
PAST = BASE - HOUR


def ended_parents(flow, number, *, child_of_all=False):
    """Let this number of jobs end, each with a job that waits for it; return the waiting jobs."""
    parents = flow.add_many(number)
    edges = [Edge(one, On.SUCCEEDED) for one in parents]
    related = [tuple(edges)] if child_of_all else [(edge,) for edge in edges]
    children = [flow.new_job(state=State.AWAITING, parents=some, queue="children") for some in related]
    flow.storage.insert(children)
    jobs = flow.take(flow.begin(), number)
    flow.storage.apply([succeeds(job) for job in jobs])
    return [child.id for child in children]


@pytest.mark.parametrize("child_of_all", [False, True])
def test_children_of_many_parents_are_released_together(flow, proxy, child_of_all):
    """The number of round trips does not depend on the number of parents.

    After the release, no work is left.
    """
    trips = []
    for number in (1, 1, FEW, FEW, FEW * FEW):  # the first ones prepare the statements
        children = ended_parents(flow, number, child_of_all=child_of_all)
        before = proxy.traffic
        assert number == flow.storage.release(1_000)
        trips.append((proxy.traffic - before).trips)
        assert [State.ENQUEUED] * len(children) == flow.states(*children)
        assert 0 == flow.storage.release(1_000)

    assert trips[1] == trips[-1] <= 9


def test_release_handles_more_parents_than_one_call(flow):
    """One call of `release` handles the children of all parents."""
    children = ended_parents(flow, MANY)

    assert MANY == flow.storage.release(1_000)

    assert {State.ENQUEUED} == set(flow.states(*children))


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_release_checks_at_most_its_limit(flow, limit):
    """In this test, a parent with several children is between parents with one child each.

    The next call continues at the right position.
    """
    first, many, last = flow.add_many(3)
    parents = [first, *[many] * 4, last]
    children = [
        flow.new_job(state=State.AWAITING, parents=(Edge(one, On.SUCCEEDED),), queue="children")
        for one in parents
    ]
    flow.storage.insert(children)
    flow.storage.apply([succeeds(job) for job in flow.take(flow.begin())])

    checked = []
    while (number := flow.storage.release(limit)) > 0:
        checked.append(number)

    assert sum(checked) == len(children)
    assert max(checked) <= limit
    assert {State.ENQUEUED} == set(flow.states(*(child.id for child in children)))


def test_child_of_several_parents_is_deleted_by_the_first(flow):
    """The child is deleted regardless of the other parents in the same release.

    Jobs that no longer wait for any parent are enqueued.
    """
    one, other, third = flow.add_many(3)
    waits = [
        (Edge(one, On.SUCCEEDED), Edge(other, On.FAILED)),  # the second condition is not met
        (Edge(one, On.SUCCEEDED), Edge(third, On.FAILED)),
        (Edge(other, On.FINISHED), Edge(third, On.FINISHED)),
    ]
    children = [flow.new_job(state=State.AWAITING, parents=some, queue="children") for some in waits]
    flow.storage.insert(children)
    runs = {job.id: job for job in flow.take(flow.begin())}
    flow.storage.apply([succeeds(runs[one]), succeeds(runs[other]), fails(runs[third])])

    assert 6 == flow.storage.release(100)

    states = [State.DELETED, State.ENQUEUED, State.ENQUEUED]
    assert states == flow.states(*(child.id for child in children))
    assert 0 == flow.storage.release(100)


@pytest.mark.parametrize("number", [1, 20])
def test_called_jobs_take_one_round_trip(flow, proxy, number):
    """Plain jobs also need one round trip. A repeated call does not store any jobs."""
    caller = flow.run()

    def called():
        return [flow.new_tied(Relations(caller_id=caller.id), {"queue": "called"}) for _ in range(number)]

    flow.storage.insert(called())  # this prepares the statements
    jobs, before = called(), proxy.traffic

    assert [True] * number == flow.storage.insert(jobs).is_new
    assert 1 == (proxy.traffic - before).trips

    assert [False] * number == flow.storage.insert(jobs).is_new
    claimed = flow.take(flow.begin("b"), 100, ("called",))
    assert {caller.id} == {job.job.relations.caller_id for job in claimed}
    assert 2 * number == len(claimed)


def test_read_of_one_job_takes_one_round_trip(flow, proxy):
    """A single query needs no transaction to read one snapshot."""
    job = flow.add()
    flow.storage.get([job])
    before = proxy.traffic

    flow.storage.get([job])

    assert 1 == (proxy.traffic - before).trips


def before(monkeypatch, module, name, change):
    """Let another process change something before the first call of a function of the storage."""
    function = getattr(module, name)

    def late(*arguments, **options):
        monkeypatch.undo()
        change()
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, late)


@pytest.mark.parametrize("verb", ["release", "prune"])
def test_child_that_waits_for_something_else_by_now_is_not_deleted(flow, monkeypatch, verb):
    """After the storage has read the dependency, the child is requeued, runs, and waits for a signal."""
    parent = flow.run()
    child = flow.continuation(parent.id, on=On.SUCCEEDED)
    flow.settle(deletes(parent.id) if verb == "release" else fails(parent, expires_at=PAST))
    if verb == "prune":
        flow.settle_all()
    (other,) = flow.open(1)

    def run_child():
        other.apply([requeues(child)])
        other.apply([suspends(flow.run(job_id=child))])

    before(monkeypatch, children_verbs, "load_rows", run_child)
    flow.storage.release(100) if verb == "release" else flow.storage.prune(100)

    flow.check(child, state=State.AWAITING, waits_for="signal approval")


def test_parent_whose_children_are_being_released_is_not_pruned(flow, monkeypatch):
    """After the storage has found the expired member, an operator deletes it, and its batch is reopened.

    If the member were pruned at this point, it would count as active forever, and its batch would never end.
    """
    batch, (parent_id,) = flow.batch_of(1, keeps=(None, 0, 0))
    (parent,) = flow.running(flow.begin(), parent_id)
    flow.continuation(parent_id, on=On.SUCCEEDED)
    flow.settle(fails(parent, expires_at=PAST))
    flow.settle_all()
    assert State.FAILED is flow.state(batch)
    (other,) = flow.open(1)

    def delete_parent():
        other.apply([deletes(parent_id, expires_at=PAST)])
        other._database.write(lambda tx: release_batches(tx, 100))  # noqa: SLF001 - a part of `release`

    before(monkeypatch, upkeep, "delete_children", delete_parent)
    flow.storage.prune(100)
    flow.settle_all()

    assert State.AWAITING is not flow.state(batch)
    assert 0 == flow.counts(batch)[1]
