"""Tests of a storage's lifecycle: creation, description, clock, waits, transactions and closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from urllib.parse import urlsplit

import attrs
import pytest

from firelock.errors import SchemaMismatch, StorageError, StorageUnavailable, UnsupportedFeature
from firelock.model.clock import SECOND
from firelock.model.state import State
from firelock.storage import (
    CONTRACT,
    Applied,
    ClaimRequest,
    Edge,
    Feature,
    JobFilter,
    NewJob,
    NewSession,
    On,
    OpenTransaction,
    Renewal,
    Storage,
    taken_from,
)
from firelock.testing.conformance.flow_scene import FlowScene, signal
from firelock.testing.conformance.kit import requires
from firelock.testing.conformance.scene import (
    BASE,
    DAY,
    HOUR,
    STAMP,
    Handles,
    Scene,
    deletes,
    moves,
    reschedules,
    restores,
    succeeds,
)
from firelock.testing.conformance.storage.recurring import due_once
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.testing.movable_clock import movable


def _arguments(job: NewJob) -> dict[str, tuple[object, ...]]:
    """Return the arguments for a call of each verb."""
    session = NewSession("session-z", "server-z", "host:z", "host", 7, STAMP, 60.0, 4, "*", "1")
    request = ClaimRequest(["default"], 1, session.id, STAMP)
    return {
        "insert": ([job],),
        "claim": (request,),
        "apply": ([deletes(job.id)],),
        "move": ([moves(job.id, queue="bulk")],),
        "exchange": ([deletes(job.id)], request),
        "begin_session": (session,),
        "renew": ([Renewal("session-z", 0, "")],),
        "reconcile": ("session-z", []),
        "orphans": (1,),
        "oldest_session": (),
        "list_sessions": (),
        "promote": (1,),
        "release": (1,),
        "prune": (1,),
        "get": ([job.id],),
        "history": (job.id,),
        "counts": (),
        "failure_groups": (1,),
        "timeline": (STAMP, STAMP + HOUR),
        "read_log": (job.id,),
        "due_records": ("recurring", 1),
        "remember": ([signal(job.id, "approval")],),
        "recall": (job.id,),
        "batch_counts": ([job.id],),
        "read_stream": (job.id, "out"),
        "acquire_lock": ("lock", "owner", 60.0),
        "put_record": ("kind", "key", "value"),
        "get_record": ("kind", "key"),
        "list_records": ("kind",),
        "delete_record": ("kind", "key"),
    }


def _verbs_of_the_store(storage: Storage, job: NewJob) -> list[tuple[str, Callable[[], object]]]:
    """Return the names of the verbs that must access the store, each with a function that calls it."""
    verbs = _arguments(job)
    if Feature.LIMITS in storage.features:
        verbs |= {"spend": ("kit/a",), "find_keys": (), "find_waiting": ("kit/a",)}
    if Feature.UNIQUE in storage.features:
        verbs["find_unique"] = ()
    return [
        *[(verb, partial(getattr(storage, verb), *arguments)) for verb, arguments in verbs.items()],
        ("end_session", lambda: storage.end_session("session-z", None, reason="lost")),
        ("find", lambda: storage.find(JobFilter(), limit=1)),
    ]


def _assert_all_raise(verbs: Iterable[tuple[str, Callable[[], object]]], error: type[Exception]) -> None:
    """Assert that each verb raises the error; if it returns, the failure shows its name and result."""
    for verb, call in verbs:
        with pytest.raises(error):
            pytest.fail(f"{verb} returned {call()!r}")


class LifeTests(StorageFixtures):
    """Tests of the verbs that open, describe and close a storage, and of its optional features."""

    verbs = "migrate schema clear close clock describe diagnose wait interrupt"

    def test_migrating_twice_changes_nothing(self, storage: Storage) -> None:
        """The schema is created once, and then has the version that the code requires.

        If this fails: every start migrates again, or the version is not stored.
        """
        storage.migrate()

        again = storage.migrate()

        assert [] == again
        assert storage.schema().wanted == storage.schema().found

    def test_storage_declares_the_contract_version(self, storage: Storage) -> None:
        """The storage's class declares the version of the contract, features that exist, and a description.

        If this fails: an old plugin runs with new code, and no error is reported. Set `contract = 1` in the
        class, as a number: it is the version of the contract for which the class was written.
        """
        assert CONTRACT == getattr(storage, "contract", None)
        assert storage.features <= frozenset(Feature)
        assert storage.url
        assert all(isinstance(key, str) and isinstance(text, str) for key, text in storage.describe().items())
        assert [] == [finding for finding in storage.diagnose() if not (finding.what and finding.advice)]

    def test_features_do_not_change(self, scene: Scene) -> None:
        """The features of a handle are known before the first call of a verb, and no call changes them.

        If this fails: code that reads them early, such as a server at its start, uses a feature that no
        longer exists. If a connection allows less, report it in `describe`.
        """
        storage = scene.handles.open()
        before = storage.features

        storage.counts()
        storage.wait(None, 0)
        storage.describe()

        assert before == storage.features == scene.storage.features

    def test_url_and_description_contain_no_password(self, storage: Storage) -> None:
        """The URL and the description of a storage contain no password.

        If this fails: passwords appear in logs and on dashboards.
        """
        shown = [storage.url, *storage.describe().values()]

        passwords = [urlsplit(text).password for text in shown if "://" in text]
        assert [] == [password for password in passwords if password not in (None, "", "***")]

    def test_clock_never_goes_back_and_can_be_moved(self, scene: Scene) -> None:
        """The clock never goes back, and includes the offset that tests set.

        If this fails: tests that depend on time prove nothing, or leases end at random.
        """
        readings = [scene.now() for _ in range(50)]
        scene.advance(3_600)
        moved = scene.now()

        assert sorted(readings) == readings
        assert BASE <= readings[0]
        assert HOUR <= moved - readings[0] < 2 * HOUR

    def test_clock_returns_microseconds(self, storage: Storage) -> None:
        """Without an offset the clock returns the current time in microseconds since 1970.

        If this fails: durations are a thousand times too long or too short, or times are decades off.
        """
        movable(storage).clock_offset = 0

        now = storage.clock()

        assert STAMP < now < STAMP + 100 * 365 * DAY

    def test_clock_is_finer_than_a_second(self, storage: Storage) -> None:
        """Of two different readings of the clock, at least one is not a whole number of seconds.

        If this fails: the clock counts seconds. Jobs enqueued within the same second are not ordered by age,
        leases end up to a second early, and a retry that is due soon is late.
        """
        movable(storage).clock_offset = 0
        first = last = storage.clock()

        deadline = time.monotonic() + self.hang_timeout
        while last == first and time.monotonic() < deadline:
            last = storage.clock()

        assert last != first, "the clock does not advance"
        assert [0, 0] != [first % SECOND, last % SECOND]

    def test_clear_deletes_everything(self, scene: Scene) -> None:
        """After `clear` the store is like a new one.

        If this fails: the jobs of one test appear in another.
        """
        storage = scene.storage
        running = scene.run()
        scene.continuation(running.id, tags=("x",))
        scene.settle(succeeds(running))
        scene.schedule(60)
        scene.add()
        storage.put_record("kind", "key", "value")
        due_once(scene)
        storage.acquire_lock("lock", "owner", 60.0)

        storage.clear()

        assert [] == storage.find(JobFilter(), limit=10).jobs
        assert [None] == storage.get([running.id])
        assert 0 == sum(storage.counts().by_state.values())
        assert ([], [], [], []) == (
            storage.list_sessions(), storage.list_records("kind"), storage.list_records("recurring"),
            storage.history(running.id).entries,
        )  # fmt: skip
        assert storage.claim(ClaimRequest(None, 10, running.holder.session, scene.stamp())).is_session_lost
        assert (0, 0) == (storage.release(10), storage.promote(10).promoted)
        assert storage.acquire_lock("lock", "another", 60.0) is not None

    def test_closed_handle_raises_storage_error(self, scene: Scene) -> None:
        """After `close` was called once or twice, every call of a verb raises `StorageError`.

        If this fails: an exception of the driver leaks, or a closed handle silently connects again, and
        nothing closes that connection.
        """
        verbs = _verbs_of_the_store(scene.storage, scene.new_job())

        for _ in range(2):
            scene.storage.close()
            _assert_all_raise([*verbs, *verbs], StorageError)

    def test_newer_schema_is_refused(
        self, scene: Scene, open_handle: Callable[[], Storage], make_newer_schema: Callable[[], None]
    ) -> None:
        """If a later release has created the store's schema, every verb raises `SchemaMismatch`.

        If this fails: old code writes into a schema that it does not support.
        """
        job = scene.new_job()
        scene.storage.close()
        make_newer_schema()
        storage = open_handle()

        try:
            _assert_all_raise(
                [("migrate", storage.migrate), *_verbs_of_the_store(storage, job)], SchemaMismatch
            )
        finally:
            storage.close()

    def test_unreachable_store_raises_storage_unavailable(
        self, scene: Scene, open_unreachable: Callable[[], Storage]
    ) -> None:
        """If the store is unreachable, every verb raises `StorageUnavailable`.

        If this fails: an exception of the driver ends a server's loop, which tries again only after
        `StorageUnavailable`.
        """
        job, storage = scene.new_job(), open_unreachable()

        try:
            _assert_all_raise(
                [("migrate", storage.migrate), *_verbs_of_the_store(storage, job)], StorageUnavailable
            )
        finally:
            storage.close()

    def test_failing_driver_of_a_used_handle_raises_storage_error(
        self, scene: Scene, break_driver: Callable[[Storage], None]
    ) -> None:
        """If the driver fails during a call, every verb raises `StorageUnavailable` or `StorageError`.

        If this fails: an error of the driver after connecting, such as a full disk or a lost connection, ends
        a server's loop.
        """
        job, storage = scene.new_job(), scene.handles.open()
        storage.counts()
        verbs = _verbs_of_the_store(storage, job)

        break_driver(storage)

        _assert_all_raise(verbs, StorageError)

    @requires(Feature.SHARED)
    def test_handles_share_one_store(self, scene: Scene) -> None:
        """Writes of one handle are immediately visible to others; closing a handle does not affect others.

        If this fails: servers and clients do not see each other's changes.
        """
        other = scene.handles.open()
        job_id = scene.add()

        seen = other.get([job_id])
        other.put_record("kind", "key", "from the other")
        record = scene.storage.get_record("kind", "key")
        scene.storage.put_record("kind", "key", "and back")
        answered = other.get_record("kind", "key")
        other.close()

        assert [scene.record(job_id)] == seen
        assert ["from the other", "and back"] == [one and one.value for one in (record, answered)]
        assert [job_id] == scene.claim_ids()

    @requires(Feature.DURABLE)
    def test_stored_data_survives_a_restart(self, scene: Scene, handles: Handles) -> None:
        """Jobs, histories, sessions, records, definitions and locks still exist after all handles close.

        If this fails: a restart loses jobs.
        """
        running = scene.run()
        ended = scene.settle(succeeds(running))
        held = scene.run(running.holder)
        waiting = scene.add(tags=("eu",))
        scene.storage.put_record("kind", "key", "value")
        due_once(scene)
        recurring = scene.storage.get_record("recurring", "nightly")
        fence = scene.storage.acquire_lock("lock", "owner", 3_600.0)
        ids = [ended, held.id, waiting]
        before = scene.storage.get(ids), scene.history(ended), scene.storage.counts()

        reopened = handles.reopen()

        assert before == (reopened.get(ids), reopened.history(ended).entries, reopened.counts())
        assert recurring == reopened.get_record("recurring", "nightly")
        assert ["value"] == [one.value for one in reopened.list_records("kind")]
        assert fence == reopened.acquire_lock("lock", "owner", 60.0)
        assert reopened.acquire_lock("lock", "another", 60.0) is None
        assert reopened.apply([succeeds(held)])[0].is_applied
        claimed = reopened.claim(ClaimRequest(["default"], 10, held.holder.session, scene.stamp())).jobs
        assert [waiting] == [job.id for job in claimed]
        assert [] == reopened.migrate()

    def test_invalid_transaction_is_refused(self, scene: Scene) -> None:
        """If `within` is not a transaction of this store, the call is refused and nothing is stored.

        If this fails: jobs are stored although the caller's transaction was rolled back.
        """
        job = scene.new_job()

        with pytest.raises((UnsupportedFeature, StorageError, TypeError, ValueError)) as caught:
            scene.storage.insert([job], within=object())

        if Feature.TRANSACTIONAL_ENQUEUE not in scene.storage.features:
            assert isinstance(caught.value, UnsupportedFeature)
        assert [None] == scene.storage.get([job.id])

    @pytest.mark.parametrize("verb", ["spend", "find_keys", "find_waiting", "find_unique"])
    def test_verbs_of_missing_features_raise_unsupported_feature(self, scene: Scene, verb: str) -> None:
        """If limits or unique keys are not offered, their verbs raise `UnsupportedFeature`.

        If this fails: a page shows that there are no limits, although the storage cannot report limits.
        """
        offered = Feature.UNIQUE if verb == "find_unique" else Feature.LIMITS

        if offered in scene.storage.features:
            getattr(scene.storage, verb)("kit/never")
        else:
            with pytest.raises(UnsupportedFeature):
                getattr(scene.storage, verb)("kit/never")

    def test_wait_without_work_times_out(self, storage: Storage) -> None:
        """Without work, a wait returns False when its timeout has passed.

        If this fails: an idle server hangs, or assumes that there is work.
        """
        assert not storage.wait(["default"], 0.01)
        assert not storage.wait(None, 0.0)

    def test_interrupt_ends_every_wait(self, storage: Storage) -> None:
        """`interrupt` ends every current wait in this process.

        If this fails: a server stops only when its current poll times out.
        """
        waits = [threading.Thread(target=storage.wait, args=(None, 600.0), daemon=True) for _ in range(3)]
        for thread in waits:
            thread.start()

        # repeat the call, because a thread may not have begun to wait yet
        for _ in range(int(self.hang_timeout / 0.01)):
            storage.interrupt()
            alive = [thread for thread in waits if thread.is_alive()]
            if not alive:
                break
            alive[0].join(0.01)

        assert [] == [thread for thread in waits if thread.is_alive()]

    def test_closing_ends_every_wait(self, scene: Scene) -> None:
        """`close` ends the current waits of its handle: they return, or raise `StorageError`.

        If this fails: a program that closes its storage hangs as long as its threads wait.
        """
        waiter, ended = scene.handles.open(), list[object]()

        def wait() -> None:
            try:
                ended.append(waiter.wait(None, 20 * self.hang_timeout))
            except StorageError as error:
                ended.append(error)

        waits = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
        for thread in waits:
            thread.start()
        waits[0].join(0.05)  # gives the threads time to begin their waits

        waiter.close()

        for thread in waits:
            thread.join(self.hang_timeout)
        assert 3 == len(ended)

    @requires(Feature.NOTIFY)
    @pytest.mark.parametrize("since", ["claim", "exchange", "wait"])
    def test_work_between_claim_and_wait_ends_the_wait(self, scene: Scene, since: str) -> None:
        """Work that arrives after a handle's last claim or last wait ends its next wait immediately.

        If this fails: a job that arrives after a server has found its queues empty, and before its wait
        begins, starts only after the next poll.
        """
        holder, waiter = scene.begin(), scene.handles.open()
        request = scene.request(holder)
        match since:
            case "claim":
                waiter.claim(request)
            case "exchange":
                waiter.exchange([], request)
            case _:
                waiter.wait(request.queues, 0.0)

        scene.add()

        assert waiter.wait(request.queues, self.hang_timeout)

    def _ends_a_wait(self, scene: Scene, make_work: Callable[[int], object]) -> None:
        """Make work repeatedly, and assert that the wait of another handle soon returns True."""
        waiter, answers = scene.handles.open(), list[bool]()
        waiter.promote(1)  # so that the handle has read the next due time
        thread = threading.Thread(target=lambda: answers.append(waiter.wait(None, 600.0)), daemon=True)
        thread.start()

        # repeat the call, because the thread may not have begun to wait yet
        for number in range(int(self.hang_timeout / 0.05)):
            make_work(number)
            thread.join(0.05)
            if answers:
                break

        assert [True] == answers

    @requires(Feature.NOTIFY)
    def test_new_work_ends_a_wait(self, scene: Scene) -> None:
        """A wait returns True as soon as another handle has stored work.

        If this fails: jobs wait for the next poll, although the storage offers notification.
        """
        self._ends_a_wait(scene, lambda _: scene.add())

        assert State.ENQUEUED in scene.by_state()

    @requires(Feature.NOTIFY)
    @pytest.mark.parametrize("what", ["scheduled", "rescheduled", "restored"])
    def test_earlier_due_time_ends_a_wait(self, scene: Scene, what: str) -> None:
        """A wait returns True if the next due time becomes earlier than the one that was last returned.

        This happens if a job is scheduled, rescheduled to an earlier time, or scheduled again after its
        delete.

        If this fails: an idle server sleeps past the due time of a job that was moved forward.
        """
        fields = {"state": State.SCHEDULED, "due_at": BASE + 900 * HOUR}
        job_id = scene.add(**fields)
        deleted = scene.settle(deletes(scene.add(**fields)))

        def make_work(number: int) -> None:
            due_at = BASE + 800 * HOUR - number * SECOND
            match what:
                case "scheduled":
                    scene.add(state=State.SCHEDULED, due_at=due_at)
                case "rescheduled":
                    scene.settle(reschedules(job_id, due_at=due_at))
                case _:
                    scene.apply(deletes(deleted))
                    scene.settle(restores(deleted, State.SCHEDULED, due_at=due_at))

        self._ends_a_wait(scene, make_work)

    @requires(Feature.NOTIFY)
    @pytest.mark.parametrize("what", ["delete", "delete of its batch"])
    def test_job_taken_from_a_session_ends_its_wait(self, flow: FlowScene, what: str) -> None:
        """A wait for jobs taken from a session returns True as soon as another caller deletes a running job.

        If this fails: a hundred jobs that a server has claimed ahead start although they were deleted.
        """
        holder = flow.begin()
        waiter, answers = flow.handles.open(), list[bool]()
        name = [taken_from(holder.session)]
        thread = threading.Thread(target=lambda: answers.append(waiter.wait(name, 600.0)), daemon=True)
        thread.start()

        # repeat the call, because the thread may not have begun to wait yet
        for _ in range(int(self.hang_timeout / 0.05)):
            is_of_batch = what == "delete of its batch"
            job_id = flow.batch_of(1)[0] if is_of_batch else flow.add()
            flow.take(holder)
            flow.apply(deletes(job_id))
            flow.storage.release(10)
            thread.join(0.05)
            if answers:
                break

        assert [True] == answers

    @requires(Feature.NOTIFY)
    def test_new_work_does_not_end_a_wait_for_taken_jobs(self, scene: Scene) -> None:
        """A wait for jobs taken from a session ignores new work, and jobs taken from other sessions.

        If this fails: a busy server runs a reconciliation for each new job.
        """
        holder, other = scene.begin(), scene.begin("b")
        waiter = scene.handles.open()
        name = [taken_from(holder.session)]
        waiter.wait(name, 0.0)

        scene.add()
        scene.apply(deletes(scene.take(other)[0].id))

        assert not waiter.wait(name, 0.2)

    @requires(Feature.TRANSACTIONAL_ENQUEUE)
    @pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
    def test_jobs_follow_the_callers_transaction(
        self, scene: Scene, open_transaction: object, commits: bool
    ) -> None:
        """Jobs stored within a transaction exist after its commit, and never after its rollback.

        If this fails: a job runs for an order that was never placed.
        """
        assert callable(open_transaction)
        other = scene.handles.open()
        job = attrs.evolve(scene.new_job(), tags=("eu",))

        with open_transaction(commits) as transaction:
            answers = scene.storage.insert([job], within=transaction).is_new
            seen_before_the_end = other.get([job.id])

        assert ([True], [None]) == (answers, seen_before_the_end)
        expected = [job.id] if commits else []
        assert expected == [record.id for record in other.get([job.id]) if record]
        assert expected == scene.claim_ids()

    @requires(Feature.TRANSACTIONAL_ENQUEUE)
    def test_on_commit_receives_the_notification_of_waiting_servers(
        self, scene: Scene, open_transaction: object
    ) -> None:
        """`within` accepts an `OpenTransaction`; its `on_commit` gets the notification of waiting servers.

        The jobs are stored in the transaction of its connection.

        If this fails: jobs within a framework's transaction are refused, or wait for the next poll.
        """
        assert callable(open_transaction)
        job, handed_over = scene.new_job(), list[Callable[[], None]]()

        with open_transaction(True) as connection:
            transaction = OpenTransaction(connection, handed_over.append)
            answers = scene.storage.insert([job], within=transaction).is_new

        assert [True] == answers
        assert handed_over != [] or Feature.NOTIFY not in scene.storage.features
        for notify in handed_over:
            notify()
        assert [job.id] == scene.claim_ids()

    @requires(Feature.TRANSACTIONAL_ENQUEUE)
    @pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
    def test_end_follows_the_callers_transaction(
        self, scene: Scene, open_transaction: object, commits: bool
    ) -> None:
        """A job that ends within a transaction has ended after its commit, and still runs after its rollback.

        If this fails: the effects of a task are stored but its job runs again, or the other way round.
        """
        assert callable(open_transaction)
        other = scene.handles.open()
        parent = scene.add()
        child = scene.add(state=State.AWAITING, parents=(Edge(parent, On.SUCCEEDED),))
        running = scene.run(job_id=parent)

        with open_transaction(commits) as transaction:
            applied = scene.storage.apply([succeeds(running)], within=transaction)
            seen_before_the_end = other.get([parent])

        assert [Applied.RELEASE_NEEDED] == applied
        assert [State.PROCESSING] == [record.state for record in seen_before_the_end if record]
        (stored,) = other.get([parent])
        assert stored is not None
        assert (State.SUCCEEDED if commits else State.PROCESSING) == stored.state
        other.release(10)
        assert (State.ENQUEUED if commits else State.AWAITING) == scene.record(child).state
        again = other.apply([succeeds(running)])
        assert [Applied.ALREADY if commits else Applied.RELEASE_NEEDED] == again

    @requires(Feature.TRANSACTIONAL_ENQUEUE)
    def test_late_end_within_a_transaction_is_refused(self, scene: Scene, open_transaction: object) -> None:
        """Settling a job within a transaction is refused before the commit if its session has lost the job.

        If this fails: the effects of a run that has lost its job are stored.
        """
        assert callable(open_transaction)
        running = scene.run(job_id=scene.add())
        scene.storage.end_session(running.holder.session, None, reason="lost")

        with open_transaction(False) as transaction:
            assert [Applied.REFUSED] == scene.storage.apply([succeeds(running)], within=transaction)
