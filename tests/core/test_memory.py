"""The storage in memory: its handles and waiters, its indexes, and what it leaves behind.

What every storage promises is proven by the kit; here is what is true of this one alone.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firelock import lifecycle
from firelock.clock import SECOND
from firelock.errors import StorageError, UnsupportedFeature
from firelock.memory import MemoryStorage
from firelock.memory.order import Order
from firelock.memory.records import DELETED_KNOWN
from firelock.storage import (
    Feature,
    Held,
    JobFilter,
    NewSession,
    RecurringRecord,
    Renewal,
)
from firelock.values import Edge, ErrorInfo, Holder, LogLine, NewJob, On, Progress, State

DAY = 86_400 * SECOND
LONG = 60.0
HOLDER = Holder("session-a", "host:a")


def session(id="session-a", timeout_seconds=1e9):
    """A session that outlives its test."""
    return NewSession(id, "server-a", "host:a", "host", 7, 0, timeout_seconds)


def new_job(storage, **fields):
    """An enqueued job of the default queue, with these fields changed."""
    given = {"queue": "default", "priority": 0, "state": State.ENQUEUED, "created_at": 1_000, **fields}
    return NewJob(storage.new_id(), "tasks.run", "[]", "json", **given)


def insert(storage, **fields):
    """The id of a job that is stored now."""
    job = new_job(storage, **fields)
    storage.insert([job])
    return job.id


def claim(storage, limit=100, queues=None):
    """What the session could claim."""
    return storage.claim(queues, limit, "session-a", 2_000).jobs


def success(job, expires_at=None):
    """The end of a run that returned."""
    return lifecycle.succeeded(
        job, HOLDER, at=3_000, started_at=2_500, result="1", result_absent=None, expires_at=expires_at
    )


@pytest.fixture
def storage():
    """A store of its own with one session, closed at the end."""
    storage = MemoryStorage()
    storage.begin_session(session())
    yield storage
    storage.close()


# ---- handles ---------------------------------------------------------------------------------------------


def test_handles_of_one_name_share_a_store():
    """What one handle stores another of the same name finds, of another name not."""
    one, other, stranger = MemoryStorage("orders"), MemoryStorage("orders"), MemoryStorage("bills")

    id = insert(one)

    assert [True, False] == [handle.get([id]) != [None] for handle in (other, stranger)]


def test_a_handle_without_a_name_keeps_its_store_to_itself():
    """Two handles without a name share nothing."""
    one, other = MemoryStorage(), MemoryStorage()

    id = insert(one)

    assert [None] == other.get([id])


def test_clearing_empties_the_store_for_every_handle():
    """Jobs, sessions, records, locks and pauses of a shared store are gone for all."""
    one, other = MemoryStorage("cleared"), MemoryStorage("cleared")
    id = insert(one)
    one.begin_session(session())
    one.put_record("queue", "default", '{"paused": true}')
    one.acquire_lock("door", "ada", 60)

    other.clear()

    assert ([None], [], None) == (one.get([id]), one.list_sessions(), one.get_record("queue", "default"))
    assert 1 == one.acquire_lock("door", "bob", 60)
    one.begin_session(session())
    again = insert(one)
    assert [again] == [job.id for job in claim(one)]


def test_closing_one_handle_leaves_the_store_to_the_others():
    """The store lives as long as one handle of its name is open."""
    one, other = MemoryStorage("left"), MemoryStorage("left")
    id = insert(one)

    one.close()

    assert [None] != other.get([id])
    assert [None] != MemoryStorage("left").get([id])


def test_the_store_goes_with_its_last_handle():
    """A name whose handles are all closed begins empty; nothing is kept for it."""
    one = MemoryStorage("gone")
    id = insert(one)

    one.close()
    gc.collect()

    assert [None] == MemoryStorage("gone").get([id])


RECURRING = RecurringRecord("nightly", "tasks.run", "[]", "json", '"0 2 * * *"', "default")
VERBS = {
    "migrate": lambda storage: storage.migrate(),
    "clear": lambda storage: storage.clear(),
    "clock": lambda storage: storage.clock(),
    "insert": lambda storage: storage.insert([]),
    "claim": lambda storage: storage.claim(None, 1, "session-a", 0),
    "apply": lambda storage: storage.apply([]),
    "exchange": lambda storage: storage.exchange([], None, 1, "session-a", 0),
    "wait": lambda storage: storage.wait(None, 0),
    "begin_session": lambda storage: storage.begin_session(session()),
    "renew": lambda storage: storage.renew([Renewal("session-a")]),
    "reconcile": lambda storage: storage.reconcile("session-a", [Held("j1", 1)]),
    "end_session": lambda storage: storage.end_session("session-a", None, reason="over"),
    "orphans": lambda storage: storage.orphans(1),
    "list_sessions": lambda storage: storage.list_sessions(),
    "promote": lambda storage: storage.promote(1),
    "release": lambda storage: storage.release(1),
    "prune": lambda storage: storage.prune(1),
    "get": lambda storage: storage.get([]),
    "find": lambda storage: storage.find(JobFilter(), limit=1),
    "history": lambda storage: storage.history("j1"),
    "errors": lambda storage: storage.errors("j1"),
    "counts": lambda storage: storage.counts(),
    "failure_groups": lambda storage: storage.failure_groups(1),
    "record_metrics": lambda storage: storage.record_metrics([]),
    "timeline": lambda storage: storage.timeline(0, 1),
    "append_logs": lambda storage: storage.append_logs({}, {}),
    "read_log": lambda storage: storage.read_log("j1"),
    "get_progress": lambda storage: storage.get_progress(["j1"]),
    "put_recurring": lambda storage: storage.put_recurring(RECURRING, keep_progress=True),
    "get_recurring": lambda storage: storage.get_recurring("nightly"),
    "list_recurring": lambda storage: storage.list_recurring(),
    "remove_recurring": lambda storage: storage.remove_recurring("nightly"),
    "due_recurring": lambda storage: storage.due_recurring(1),
    "fire_recurring": lambda storage: storage.fire_recurring(RECURRING, 0, []),
    "acquire_lock": lambda storage: storage.acquire_lock("door", "ada", 1),
    "renew_lock": lambda storage: storage.renew_lock("door", "ada", 1, 1),
    "release_lock": lambda storage: storage.release_lock("door", "ada", 1),
    "put_record": lambda storage: storage.put_record("note", "k", "1"),
    "get_record": lambda storage: storage.get_record("note", "k"),
    "list_records": lambda storage: storage.list_records("note"),
    "delete_record": lambda storage: storage.delete_record("note", "k"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_closed_handle_refuses_every_verb(verb):
    """After closing, also twice, a verb says that the handle is closed and what to do."""
    storage = MemoryStorage("shut")
    storage.close()
    storage.close()

    with pytest.raises(StorageError, match=r"memory://shut is closed; open a new handle"):
        VERBS[verb](storage)


def test_a_handle_says_what_it_is():
    """Its URL names the store; it wakes waiters, and neither survives its process nor is seen by another."""
    storage = MemoryStorage("orders")

    assert ("memory://orders", "memory://") == (storage.url, MemoryStorage().url)
    assert {Feature.NOTIFY} == storage.features
    assert "none: jobs are gone when this process ends" == storage.describe()["durability"]
    assert [] == storage.migrate()


def test_a_transaction_is_refused(storage):
    """There is no database whose transaction could be joined; nothing is stored."""
    job = new_job(storage)

    with pytest.raises(UnsupportedFeature, match="no transactions to join"):
        storage.insert([job], within=object())

    assert [None] == storage.get([job.id])


# ---- waiting ---------------------------------------------------------------------------------------------


def pause(storage):
    """The default queue is paused."""
    storage.put_record("queue", "default", '{"paused": true}')


def enqueue_at_once(storage):
    """A job is inserted."""
    insert(storage)


def promote_one(storage):
    """A job that was due is enqueued."""
    insert(storage, state=State.SCHEDULED, due_at=1)
    storage.promote(1)


def requeue_one(storage):
    """A deleted job is enqueued."""
    id = insert(storage, queue="elsewhere")
    storage.apply([lifecycle.delete(id, at=1, reason="deleted", expires_at=None)])
    storage.apply([lifecycle.requeue(id, at=2, reason="requeued")])


def hand_one_back(storage):
    """A claimed job is given back."""
    insert(storage)
    (job,) = claim(storage)
    storage.apply([lifecycle.handed_back(job, HOLDER, at=3_000, started_at=None, reason="stop")])


def end_its_session(storage):
    """A job goes back to its queue with the end of its session."""
    insert(storage)
    claim(storage)
    storage.end_session("session-a", None, reason="lost")


def release_a_continuation(storage):
    """A parent ends and its child is enqueued."""
    parent = insert(storage, queue="elsewhere")
    insert(storage, state=State.AWAITING, parents=(Edge(parent),))
    (job,) = claim(storage)
    storage.apply([success(job)])
    storage.release(1)


def resume_a_queue(storage):
    """A paused queue with work goes on."""
    pause(storage)
    insert(storage)
    storage.put_record("queue", "default", '{"paused": false}')


def forget_a_pause(storage):
    """The settings of a paused queue with work are removed."""
    pause(storage)
    insert(storage)
    storage.delete_record("queue", "default")


WORK = [
    enqueue_at_once, promote_one, requeue_one, hand_one_back, end_its_session, release_a_continuation,
    resume_a_queue, forget_a_pause,
]  # fmt: skip


@pytest.mark.parametrize("bring_work", WORK, ids=lambda one: one.__name__)
def test_whatever_enqueues_wakes_a_waiter(storage, bring_work):
    """A wait in another thread ends with True, long before its timeout, when a claim would take something."""
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(storage.wait(None, LONG)))
    waiter.start()

    bring_work(storage)
    waiter.join(LONG / 2)

    assert [True] == answers


def test_work_that_is_there_already_ends_a_wait(storage):
    """A job that came between the claim and the wait is not slept over."""
    insert(storage)

    assert storage.wait(["default"], LONG)


def test_a_waiter_is_woken_through_another_handle():
    """Handles of one name wake each other."""
    one, other = MemoryStorage("woken"), MemoryStorage("woken")
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(one.wait(None, LONG)))
    waiter.start()

    insert(other)
    waiter.join(LONG / 2)

    assert [True] == answers


@pytest.mark.parametrize(
    ("queues", "is_paused", "is_woken"),
    [
        (["other"], False, False),
        (["other", "default"], False, True),
        (None, False, True),
        (None, True, False),
        (["default"], True, False),
    ],
)
def test_only_work_that_a_claim_would_take_counts(storage, queues, is_paused, is_woken):
    """A job of another queue, or of a paused one, ends no wait."""
    if is_paused:
        pause(storage)
    insert(storage)

    assert is_woken is storage.wait(queues, 0)


def test_an_earlier_due_instant_ends_a_wait_once(storage):
    """Who sleeps until the next due instant hears of an earlier one, and not again of the same."""
    now = storage.clock()
    insert(storage, state=State.SCHEDULED, due_at=now + 3 * DAY)
    claim(storage)

    insert(storage, state=State.SCHEDULED, due_at=now + 4 * DAY)
    later = storage.wait(None, 0)
    insert(storage, state=State.SCHEDULED, due_at=now + 2 * DAY)
    earlier = [storage.wait(None, 0) for _ in range(2)]

    assert (False, [True, False]) == (later, earlier)


def test_an_earlier_recurring_job_ends_a_wait(storage):
    """A recurring definition that comes due before anything known is heard of as well."""
    claim(storage)

    storage.put_recurring(
        RecurringRecord("nightly", "t", "[]", "json", "", "default", next_at=storage.clock() + DAY),
        keep_progress=False,
    )

    assert storage.wait(None, 0)


@pytest.mark.parametrize("ending", ["interrupt", "close"])
def test_a_waiter_can_be_sent_home(ending):
    """Interrupting or closing ends a wait that is under way, with no work in sight."""
    storage = MemoryStorage()
    is_inside, answers = threading.Event(), []

    class Watched(list):
        """Queue names that tell when the waiting thread has looked at them."""

        def __iter__(self):
            is_inside.set()
            return super().__iter__()

    waiter = threading.Thread(target=lambda: answers.append(storage.wait(Watched(["default"]), LONG)))
    waiter.start()
    assert is_inside.wait(LONG)

    getattr(storage, ending)()  # the waiter lets go of the lock only to sleep, so it sleeps by now
    waiter.join(LONG / 2)

    assert [False] == answers


# ---- many threads ----------------------------------------------------------------------------------------


def test_threads_claim_each_job_once(storage):
    """However many claim at once, every job goes to exactly one of them."""
    threads_count, jobs_count = 4, 400
    storage.insert([new_job(storage) for _ in range(jobs_count)])
    barrier = threading.Barrier(threads_count)
    taken = [[] for _ in range(threads_count)]

    def take(own):
        barrier.wait()
        while jobs := claim(storage, limit=3):
            own.extend(job.id for job in jobs)

    threads = [threading.Thread(target=take, args=(own,)) for own in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {1} == set(Counter(id for own in taken for id in own).values())
    assert {State.PROCESSING: jobs_count} == storage.counts().by_state


def test_threads_fire_an_instant_once(storage):
    """However many servers fire one recurring instant at once, one does, and its jobs alone are stored."""
    threads_count = 4
    stored = storage.put_recurring(
        RecurringRecord("nightly", "t", "[]", "json", "", "default", next_at=10), keep_progress=False
    )
    following = attrs.evolve(stored, next_at=20)
    barrier = threading.Barrier(threads_count)
    fired = []

    def fire():
        job = new_job(storage)
        barrier.wait()
        fired.append(storage.fire_recurring(following, 10, [job]))

    threads = [threading.Thread(target=fire) for _ in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [False, False, False, True] == sorted(fired)
    assert {State.ENQUEUED: 1} == storage.counts().by_state


# ---- claims and pages ------------------------------------------------------------------------------------


def test_small_claims_of_every_queue_take_turns(storage):
    """Claims smaller than the number of queues go round, so that none waits for another to be empty."""
    for queue in "aaabbc":
        insert(storage, queue=queue)

    taken = [job.queue for _ in range(6) for job in claim(storage, limit=1)]

    assert list("abcaba") == taken


@pytest.mark.parametrize(
    ("where", "oldest_first"), [(JobFilter(queue="other"), False), (JobFilter(), True)], ids=["filter", "way"]
)
def test_a_cursor_of_another_list_is_refused(storage, where, oldest_first):
    """A cursor opens the next page of its own filter and direction and of no other."""
    for _ in range(2):
        insert(storage)
    cursor = storage.find(JobFilter(), limit=1).cursor

    with pytest.raises(StorageError, match="belongs to no page of this filter and direction"):
        storage.find(where, limit=1, cursor=cursor, oldest_first=oldest_first)


# ---- bounded work ----------------------------------------------------------------------------------------


def test_children_are_released_in_slices(storage):
    """A call of `release` looks at no more than its limit; the parent stays listed until all are done."""
    parent = insert(storage)
    storage.insert([new_job(storage, state=State.AWAITING, parents=(Edge(parent),)) for _ in range(2_500)])
    (job,) = claim(storage)
    storage.apply([success(job)])

    slices = [storage.release(1_000) for _ in range(4)]

    assert [1_000, 1_000, 500, 0] == slices
    assert {State.SUCCEEDED: 1, State.ENQUEUED: 2_500} == storage.counts().by_state


def test_a_child_pruned_before_its_turn_is_passed_over(storage):
    """A child that was deleted and pruned while its parent was on the releasing list hinders nobody."""
    parent = insert(storage)
    gone, left = (insert(storage, state=State.AWAITING, parents=(Edge(parent),)) for _ in range(2))
    (job,) = claim(storage)
    storage.apply([success(job), lifecycle.delete(gone, at=4_000, reason="deleted", expires_at=1)])
    storage.prune(10)

    storage.release(10)

    assert [None] == storage.get([gone])
    assert State.ENQUEUED is storage.get([left])[0].state


def test_one_decided_tie_leaves_the_other_to_the_same_parent(storage):
    """A child tied twice to one parent waits on for the tie that the parent's failure did not decide."""
    parent = insert(storage)
    edges = (Edge(parent, On.FINISHED), Edge(parent, On.SUCCEEDED))
    child = insert(storage, state=State.AWAITING, parents=edges)
    (job,) = claim(storage)
    error = ErrorInfo("builtins.ValueError", "boom", "f00d")
    storage.apply([lifecycle.undecodable(job, HOLDER, at=3_000, error=error, expires_at=None)])
    storage.release(10)
    storage.apply([lifecycle.requeue(parent, at=4_000, reason="requeued")])
    (job,) = claim(storage)

    storage.apply([success(job)])
    storage.release(10)

    assert State.ENQUEUED is storage.get([child])[0].state


def containers(thing):
    """The containers that an object of ours is made of, with what they hold."""
    return {name: value for name, value in vars(thing).items() if hasattr(value, "__len__")}


def test_pruned_jobs_leave_nothing_behind(storage):
    """When every job is pruned, no index, log, progress or version of any of them is left."""
    parent = insert(storage, queue="a")
    insert(storage, queue="b", state=State.AWAITING, parents=(Edge(parent, On.FINISHED),))
    insert(storage, queue="c", state=State.AWAITING, parents=(Edge(parent, On.FAILED),))
    insert(storage, queue="d", state=State.SCHEDULED, due_at=1)
    storage.append_logs({parent: [LogLine(0, 1, "info", "hello")]}, {parent: Progress(1, 2, 3)})
    storage.promote(10)
    while jobs := claim(storage):
        storage.apply([success(job, expires_at=3_000) for job in jobs])
        storage.release(10)

    storage.prune(10)

    store = vars(storage)["_store"]
    table = containers(store.table)
    states = table.pop("by_state")
    assert dict.fromkeys(table, 0) == {name: len(value) for name, value in table.items()}
    assert not any(states.values())
    assert not any(vars(store.records)["_deleted"].values())


def test_deleted_records_beyond_number_never_fall_in_version(storage):
    """Of a thousand deleted ones each version is known; of those deleted longer ago, the highest."""
    for version in range(1, 4):
        assert version == storage.put_record("lock", "first", "value")
    storage.delete_record("lock", "first")
    for number in range(DELETED_KNOWN):
        storage.put_record("lock", str(number), "value")
        storage.delete_record("lock", str(number))

    versions = [storage.put_record("lock", key, "again") for key in ("first", "0", "new")]

    assert [4, 2, 4] == versions
    assert DELETED_KNOWN - 1 == len(vars(vars(storage)["_store"].records)["_deleted"]["lock"])


# ---- orders ----------------------------------------------------------------------------------------------

ids = st.sampled_from("abcdefgh")
keys = st.integers(min_value=0, max_value=5)
steps = st.lists(st.tuples(ids, st.one_of(st.none(), keys)), max_size=200)


@given(steps=steps, start=st.tuples(st.tuples(keys), ids), limit=keys)
def test_an_order_is_a_sorted_dictionary(steps, start, limit):
    """After any puts and drops, first, forwards, backwards and from any place it is what sorting gives."""
    order, model = Order(), {}
    for id, key in steps:
        if key is None:
            order.drop(id)
            model.pop(id, None)
        else:
            order.put(id, key)
            model[id] = (key,)
        order.first()  # it remembers how far the dead reach
    entries = sorted((key, id) for id, key in model.items())

    assert (len(entries), entries[0] if entries else None) == (len(order), order.first())
    assert entries == list(order.after())
    assert entries[::-1] == list(order.before())
    assert [entry for entry in entries if entry > start] == list(order.after(start))
    assert [entry for entry in entries[::-1] if entry < start] == list(order.before(start))
    assert [id for key, id in entries if key[0] <= limit] == list(order.up_to(limit))


def test_an_order_sweeps_out_what_was_dropped():
    """Thousands that came and went leave a list that is no longer than a few times what is left."""
    order = Order()
    for number in range(10_000):
        order.put(f"job-{number}", number)
        order.drop(f"job-{number - 10}")

    assert 10 == len(order)
    assert all(len(value) < 200 for value in containers(order).values())
