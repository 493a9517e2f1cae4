"""Tests of sessions: jobs of a living session are not taken; those of an ended one are requeued once."""

from __future__ import annotations

import attrs
import pytest

from firelock.model.clock import SECOND
from firelock.model.job import JobRecord
from firelock.model.lifecycle import Moved
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import Applied, HeldClaim, LostClaim, NewSession, Renewal
from firelock.testing.conformance.scene import (
    BASE,
    DAY,
    STAMP,
    Running,
    Scene,
    crashes,
    deletes,
    fails,
    hands_back,
    requeues,
    retries,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures

HOURS = 3_600.0


class SessionTests(StorageFixtures):
    """Tests of `begin_session`, `renew`, `end_session`, `orphans` and the lists of sessions."""

    verbs = "begin_session renew end_session orphans oldest_session list_sessions"

    def test_session_is_stored_as_given(self, scene: Scene) -> None:
        """A session is listed with every field, and stays alive for its timeout by the storage's clock.

        If this fails: the list of servers is wrong, or a caller's clock determines how long a session stays
        alive.
        """
        session = NewSession(
            "s-1", "srv-1", "web:17", "web", 17, STAMP + 5, 2 * HOURS, 20, "critical,default", "1.2"
        )

        scene.storage.begin_session(session)

        (stored,) = scene.storage.list_sessions()
        assert (session, True) == (stored.session, stored.is_alive)
        assert BASE + 7_200 * SECOND <= stored.expires_at <= scene.now() + 7_200 * SECOND
        assert "s-1" == stored.renewal.session

    @pytest.mark.parametrize("is_dead", [False, True])
    def test_repeated_begin_does_not_change_a_session(self, scene: Scene, is_dead: bool) -> None:
        """A session that begins again keeps its fields and expiry; if it has ended, it stays ended.

        If this fails: a `begin_session` that arrives late, or is sent again after a lost reply, revives a
        session whose jobs were taken.
        """
        holder = scene.begin("a", HOURS)
        if is_dead:
            scene.lose(holder)
        before = scene.storage.list_sessions()
        scene.advance(600)

        scene.begin("a", 5 * HOURS)

        assert before == scene.storage.list_sessions()
        assert [not is_dead] == scene.storage.renew([Renewal(holder.session)])

    def test_renewed_session_lives_for_its_timeout_from_now(self, scene: Scene) -> None:
        """A renewed session stays alive for its timeout from now, and shows its worker process's report.

        If this fails: living servers are treated as dead.
        """
        holder = scene.begin("a", HOURS)
        scene.advance(3_000)
        renewal = Renewal(holder.session, 3, "quiet", 12_345_678, 12.5, 4, 5, 6)

        renewed = scene.storage.renew([renewal])

        assert [True] == renewed
        (stored,) = scene.storage.list_sessions()
        assert renewal == stored.renewal
        assert stored.expires_at >= BASE + 6_600 * SECOND
        scene.advance(3_000)
        assert [] == scene.orphans()

    def test_each_renewal_of_a_call_has_its_own_result(self, scene: Scene) -> None:
        """One call renews many sessions; ended and unknown ones return False and stay as they are.

        If this fails: one dead worker process makes the renewals of its siblings fail, or is revived by them.
        """
        living, dead, last = scene.begin("a"), scene.begin("b"), scene.begin("c")
        scene.lose(dead)
        renewals = [Renewal(one) for one in (living.session, dead.session, "unknown", last.session)]

        answers = [scene.storage.renew(renewals), scene.storage.renew(renewals)]

        assert [[True, False, False, True]] * 2 == answers
        assert 3 == len(scene.storage.list_sessions())

    def test_expired_session_can_be_renewed_until_it_is_ended(self, scene: Scene) -> None:
        """An expired session that has not been marked as ended can still claim and be renewed.

        If this fails: a server that paused for a moment loses jobs that no other server was given.
        """
        holder = scene.begin("a", HOURS)
        running = scene.run(holder)
        scene.advance(2 * HOURS)
        second = scene.run(holder)

        renewed = scene.storage.renew([Renewal(holder.session)])

        assert [True] == renewed
        assert [] == scene.orphans()
        assert [True, True] == [scene.apply(succeeds(run)).is_applied for run in (running, second)]

    def test_orphans_ends_only_expired_sessions(self, scene: Scene) -> None:
        """`orphans` ends sessions that have expired by the storage's clock; others keep their jobs.

        If this fails: the jobs of a living server run twice, or those of a dead one never run again.
        """
        short, long = scene.begin("short", HOURS), scene.begin("long", 9 * HOURS)
        lost, kept = scene.run(short), scene.run(long)
        assert [] == scene.orphans()
        scene.advance(2 * HOURS)

        taken = scene.orphans()

        assert [(short.session, short.server, [lost.id], [])] == [
            (one.session, one.server, one.crashed, one.returned) for one in taken
        ]
        assert [State.ENQUEUED, State.PROCESSING] == scene.states(lost.id, kept.id)
        assert {short.session: False, long.session: True} == {
            record.session.id: record.is_alive for record in scene.storage.list_sessions()
        }

    def test_orphans_returns_a_session_once(self, scene: Scene) -> None:
        """`orphans` returns an expired session once, even if it held no job; the session stays ended.

        If this fails: a job that another server already runs is taken again, or one crash after another is
        counted for it. Or the list of servers only grows, and the session can still claim.
        """
        holder, idle = scene.begin("a", HOURS), scene.begin("idle", HOURS)
        running = scene.run(holder)
        scene.advance(2 * HOURS)

        taken, again = scene.orphans(), scene.orphans()

        assert {(holder.session, running.id, 0), (idle.session, "", 0)} == {
            (one.session, "".join(one.crashed), len(one.returned)) for one in taken
        }
        assert [] == again
        assert [False, False] == scene.storage.renew([Renewal(holder.session), Renewal(idle.session)])
        assert scene.storage.claim(scene.request(idle)).is_session_lost
        assert 1 == scene.record(running.id).crashes

    def test_orphans_ends_only_sessions_expired_by_both_clocks(self, scene: Scene) -> None:
        """With `as_of`, a session is ended if it has expired by that time and by the storage's clock.

        If this fails: after the storage's clock is set forward, a server that read it just before ends the
        sessions of all living servers.
        """
        holder = scene.begin("a", HOURS)
        before = scene.now()
        too_early = scene.orphans(as_of=before + 2 * 3_600 * SECOND)
        scene.advance(2 * HOURS)

        by_storage_alone, by_both = scene.orphans(as_of=before), scene.orphans(as_of=scene.now())

        assert [] == too_early
        assert [] == by_storage_alone
        assert [holder.session] == [taken.session for taken in by_both]

    def test_orphans_ends_a_session_after_the_clock_was_set_back(self, scene: Scene) -> None:
        """After the clock was set back, `orphans` ends only sessions that have not been renewed since.

        Such a session has expired if it would stay alive for more than two of its timeouts. A session that
        could have been renewed by the time `as_of` is also alive.

        If this fails: after the storage's clock is set back by a day, the jobs of servers that died are lost
        for a day.
        """
        dead, living = scene.begin("dead", HOURS), scene.begin("living", HOURS)
        running = scene.run(dead)
        before = scene.now()
        scene.advance(-HOURS / 2)
        soon = scene.orphans()
        scene.advance(-HOURS)
        scene.storage.renew([Renewal(living.session)])

        by_storage_alone, by_both = scene.orphans(as_of=before), scene.orphans()

        assert [] == soon
        assert [] == by_storage_alone
        assert [(dead.session, [running.id])] == [(taken.session, taken.crashed) for taken in by_both]
        assert [False, True] == scene.storage.renew([Renewal(dead.session), Renewal(living.session)])

    def test_orphans_ends_at_most_its_limit_of_sessions(self, scene: Scene) -> None:
        """One call of `orphans` ends at most `limit` sessions; the next call ends the rest.

        If this fails: the loss of a cluster is handled in one very long operation.
        """
        for name in "abcde":
            scene.begin(name, HOURS)
        scene.advance(2 * HOURS)

        numbers = [len(scene.orphans(2)) for _ in range(4)]

        assert [2, 2, 1, 0] == numbers

    def test_jobs_of_an_orphaned_session_get_a_crash(self, scene: Scene) -> None:
        """A crash is counted for each job of a lost session, and the job returns to its old place.

        Nothing is known about which of the jobs ran.

        If this fails: a job that kills its host is never found, or other jobs lose their place, attempts or
        retries.
        """
        holder = scene.begin("a", HOURS)
        job_id = scene.settle(retries(scene.run(holder)))
        running = scene.run(holder, job_id)
        before = scene.record(job_id)
        scene.advance(2 * HOURS)

        scene.orphans()

        record = scene.record(job_id)
        assert (State.ENQUEUED, 1, 1, 1, before.enqueued_at, None, before.fence) == (
            record.state, record.crashes, record.retries, record.attempt, record.enqueued_at, record.session,
            record.fence,
        )  # fmt: skip
        entry = scene.last_entry(job_id)
        assert (State.ENQUEUED, Moved.SESSION_LOST, 2, running.job.claimed_at, holder.server) == (
            entry.state, entry.reason, entry.attempt, entry.claimed_at, entry.server,
        )  # fmt: skip
        assert Moved.SESSION_LOST == record.reason

    @pytest.mark.parametrize("is_expired", [True, False], ids=["expired", "ended"])
    def test_history_entry_of_a_crash_has_the_stored_start(self, scene: Scene, is_expired: bool) -> None:
        """The history entry of a crash has the last start that the session has stored for that attempt.

        If this fails: a job that kills its whole server each time runs forever, or jobs that were only
        claimed by lost servers are failed.
        """

        def end(holder: ClaimHolder) -> None:
            if is_expired:
                scene.advance(2 * HOURS)
                scene.orphans()
            else:
                scene.lose(holder)

        first = scene.begin("a", HOURS)
        running = scene.run(first)
        scene.reconcile(first, [_held(running, started_at=scene.stamp())])
        started_at = scene.record(running.id).started_at
        end(first)
        second = scene.begin("b", HOURS)
        scene.claim(second)
        end(second)

        crashes = [entry for entry in scene.history(running.id) if entry.attempt is not None]
        assert started_at is not None
        assert [started_at, None] == [entry.started_at for entry in crashes]

    def test_only_running_jobs_of_an_ended_session_get_a_crash(self, scene: Scene) -> None:
        """A crash is counted for jobs named as running; the others return without a history entry.

        The crash is in the history of its job, with the reason.

        If this fails: jobs that ran next to a harmful job are failed with it.
        """
        holder = scene.begin()
        ids = scene.add_many(4)
        before = [_place(scene.record(job_id)) for job_id in ids]
        scene.claim(holder)

        taken = scene.lose(holder, running={ids[1]}, reason="killed by signal 9")

        assert (holder.session, holder.server, [ids[1]], sorted([ids[0], *ids[2:]])) == (
            taken.session, taken.server, taken.crashed, sorted(taken.returned),
        )  # fmt: skip
        assert [0, 1, 0, 0] == [scene.record(job_id).crashes for job_id in ids]
        assert [1, 2, 1, 1] == [len(scene.history(job_id)) for job_id in ids]
        assert [Moved.NOT_STARTED, "killed by signal 9", Moved.NOT_STARTED, Moved.NOT_STARTED] == [
            scene.record(job_id).reason for job_id in ids
        ]
        entry = scene.last_entry(ids[1])
        assert (State.ENQUEUED, "killed by signal 9", 1) == (entry.state, entry.reason, entry.attempt)
        assert before == [_place(scene.record(job_id)) for job_id in ids]

    def test_every_job_gets_a_crash_if_running_jobs_are_unknown(self, scene: Scene) -> None:
        """With `running=None`, a crash is counted for every job; with an empty collection, for none.

        If this fails: "nothing is known" is treated as "nothing ran".
        """
        one, other = scene.begin("a"), scene.begin("b")
        known, unknown = scene.run(one), scene.run(other)

        quiet = scene.lose(one, running=[], reason="stopped")
        blamed = scene.lose(other, reason="host lost")

        assert (([], [known.id]), ([unknown.id], [])) == (
            (quiet.crashed, quiet.returned), (blamed.crashed, blamed.returned),
        )  # fmt: skip
        assert (0, 1) == (scene.record(known.id).crashes, scene.record(unknown.id).crashes)

    def test_end_of_a_session_does_not_change_other_jobs(self, scene: Scene) -> None:
        """Ending a session does not change jobs of other sessions, even if they are named as running.

        If this fails: when one worker process dies, the jobs of another are taken.
        """
        dead, well = scene.begin("dead"), scene.begin("well")
        kept = scene.run(well)
        gone = scene.settle(succeeds(scene.run(dead)))
        waiting = scene.add()
        before = scene.storage.get([kept.id, gone, waiting])

        taken = scene.lose(dead, running=[kept.id, gone, waiting, "unknown"], reason="killed")

        assert ([], []) == (taken.crashed, taken.returned)
        assert before == scene.storage.get([kept.id, gone, waiting])
        assert scene.apply(succeeds(kept)).is_applied

    def test_jobs_of_an_ended_session_are_claimed_again(self, scene: Scene) -> None:
        """Jobs that were taken from an ended session are claimed in their old order, each with a new fence.

        If this fails: the jobs of a dead server are lost, or it ends jobs that another server runs.
        """
        dead, heir = scene.begin("dead"), scene.begin("heir")
        ids = scene.add_many(3)
        old = scene.claim(dead)
        scene.add()
        scene.lose(dead)

        new = scene.claim(heir, 3)

        assert ids == [job.id for job in new]
        assert [1, 1, 1] == [job.attempt for job in new]
        assert all(after.fence > before.fence for before, after in zip(old, new, strict=True))

    def test_end_of_a_session_never_fails_a_job(self, scene: Scene) -> None:
        """Ending a session never fails a job, however often the job has crashed.

        Only a job that ran alone in a job process is failed for its crashes.

        If this fails: three network partitions fail every job that ran at that time.
        """
        running = scene.run(scene.begin("first"))
        job_id = scene.settle(crashes(running))

        for number in range(4):
            holder = scene.begin(f"n{number}")
            scene.run(holder, job_id)
            scene.lose(holder, reason="host lost")

        scene.check(job_id, state=State.ENQUEUED, crashes=5, attempt=0)

    @pytest.mark.parametrize("running", [None, []])
    def test_end_of_an_ended_or_unknown_session_does_nothing(
        self, scene: Scene, running: list[str] | None
    ) -> None:
        """Ending a session for the second time, or ending an unknown session, does nothing.

        If this fails: a supervisor that repeats a request takes jobs that already run elsewhere.
        """
        dead, heir = scene.begin("dead"), scene.begin("heir")
        job = scene.run(dead)
        scene.lose(dead)
        scene.run(heir, job.id)
        before = scene.record(job.id), scene.storage.list_sessions()

        taken = [scene.storage.end_session(one, running, reason="again") for one in (dead.session, "unknown")]

        assert [(dead.session, [], []), ("unknown", [], [])] == [
            (one.session, one.crashed, one.returned) for one in taken
        ]
        assert before == (scene.record(job.id), scene.storage.list_sessions())

    def test_ended_session_keeps_its_last_renewal(self, scene: Scene) -> None:
        """An ended session keeps its last renewal.

        If this fails: a server that stopped normally cannot be distinguished from one that was killed.
        """
        holder, killed = scene.begin("a"), scene.begin("b")
        last = [
            Renewal(holder.session, 0, "stopping", 7, 0.5),
            Renewal(killed.session, 3, "running", 9, 1.5, 1, 2, 3),
        ]
        scene.storage.renew(last)

        for each in (holder, killed):
            scene.lose(each, running=(), reason="stopped")

        assert last == [record.renewal for record in scene.storage.list_sessions()]

    def test_sessions_are_listed_oldest_first(self, scene: Scene) -> None:
        """The list contains living and ended sessions, ordered by `started_at`.

        If this fails: the order of the list of servers changes all the time.
        """
        for name in "cab":
            scene.begin(name)
        scene.storage.end_session("session-a", None, reason="killed")

        listed = scene.storage.list_sessions()

        assert [("session-c", True), ("session-a", False), ("session-b", True)] == [
            (record.session.id, record.is_alive) for record in listed
        ]

    def test_oldest_session_is_the_first_living_one(self, scene: Scene) -> None:
        """The oldest session is the first in the list that has not been marked as ended.

        If this fails: no server, or every server, takes due jobs without delay.
        """
        before = scene.storage.oldest_session()
        for name in "cab":
            scene.begin(name)
        started_at = scene.storage.list_sessions()[0].session.started_at
        scene.storage.begin_session(
            NewSession("session-0", "server-0", "host:0", "host", 7, started_at, HOURS)
        )
        scene.storage.renew([Renewal("session-0", 2, "quiet", 5, 1.5)])

        listed, oldest = scene.storage.list_sessions(), []
        for record in listed:
            oldest.append(scene.storage.oldest_session())
            scene.storage.end_session(record.session.id, (), reason="stopped")

        assert ["session-0", "session-c", "session-a", "session-b"] == [one.session.id for one in listed]
        assert listed == oldest
        assert (None, None) == (before, scene.storage.oldest_session())

    def test_replaced_session_is_deleted_an_hour_after_its_end(self, scene: Scene) -> None:
        """An ended session is deleted after an hour if another session of its server began after its death.

        If this fails: each restart of a worker process leaves a session for a day, or the last sessions of a
        lost server are deleted before people have seen them.
        """
        server = NewSession("first", "server", "host:7", "host", 7, scene.stamp(), 90 * HOURS)
        sibling, later = attrs.evolve(server, id="sibling"), attrs.evolve(server, id="later", started_at=0)
        for session in (server, sibling):
            scene.storage.begin_session(session)
        scene.lose(scene.begin("other"))
        scene.storage.end_session("first", (), reason="died")
        scene.storage.begin_session(later)
        scene.storage.end_session("sibling", (), reason="died")
        scene.begin("another", 90 * HOURS)  # belongs to another server

        kept = []
        for seconds in (0, 0.9 * HOURS, 0.2 * HOURS, 20 * HOURS, 3 * HOURS):
            scene.advance(seconds)
            scene.prune(100)
            kept.append({record.session.id for record in scene.storage.list_sessions()})

        living = {"later", "session-another"}
        everything = living | {"first", "sibling", "session-other"}
        assert [everything, everything, everything - {"first"}, everything - {"first"}, living] == kept

    def test_ended_session_is_deleted_after_a_day(self, scene: Scene) -> None:
        """An ended session is deleted a day after its death; a living one stays, however old it is.

        If this fails: people cannot see which server died last night, or the list grows forever.
        """
        scene.begin("old", 90 * HOURS)
        dead = scene.begin("dead")
        scene.lose(dead)

        scene.advance(20 * HOURS)
        scene.prune(100)
        after_a_while = {record.session.id for record in scene.storage.list_sessions()}
        scene.advance(DAY // SECOND - 19 * HOURS)
        scene.prune(100)

        assert {"session-old", "session-dead"} == after_a_while
        assert ["session-old"] == [record.session.id for record in scene.storage.list_sessions()]
        assert [False] == scene.storage.renew([Renewal(dead.session)])


def _place(record: JobRecord) -> JobRecord:
    """Return the record without the fields that a crash may change."""
    return attrs.evolve(record, crashes=0, fence=0, reason=None, changed_at=0, claimed_at=None, server=None)


def _held(running: Running, started_at: int | None = None) -> HeldClaim:
    return HeldClaim(running.id, running.job.fence, started_at)


class ReconcileTests(StorageFixtures):
    """Tests of `reconcile`."""

    verbs = "reconcile"

    def test_reconcile_does_not_return_claims_known_to_both_sides(self, scene: Scene) -> None:
        """A claim known to both sides is neither lost nor unknown; jobs of other sessions are not returned.

        If this fails: servers stop jobs that they hold, or hand back jobs that they or others run.
        """
        running = scene.run()
        scene.run(scene.begin("b"))
        scene.add()

        found = scene.reconcile(running.holder, [_held(running)])

        assert (False, [], []) == (found.is_session_lost, found.lost, found.unknown)

    def test_job_not_named_by_its_worker_process_is_unknown(self, scene: Scene) -> None:
        """Jobs of a session that its worker process does not name are returned in full and do not change.

        If this fails: the jobs of a claim whose reply was lost are never run.
        """
        holder = scene.begin()
        scene.add_many(3)
        claimed = scene.claim(holder)
        named = Running(claimed[1], holder)

        found = scene.reconcile(holder, [_held(named)])

        unknown = sorted(found.unknown, key=lambda job: job.id)
        assert sorted([claimed[0], claimed[2]], key=lambda job: job.id) == unknown
        assert [State.PROCESSING] * 3 == scene.states(*(job.id for job in claimed))

    def test_unknown_job_can_be_handed_back(self, scene: Scene) -> None:
        """An unknown job that `reconcile` returns can be handed back.

        If this fails: its fence or attempt differs from the stored one, and the hand-back is refused.
        """
        holder = scene.begin()
        lost_reply = scene.run(holder)
        (job,) = scene.reconcile(holder, []).unknown

        result = scene.apply(hands_back(Running(job, holder)))

        assert (Applied.APPLIED, lost_reply.job) == (result, job)
        assert (State.ENQUEUED, 0) == (scene.state(job.id), scene.record(job.id).attempt)

    def test_job_that_is_no_longer_held_is_lost(self, scene: Scene) -> None:
        """Jobs that ended, were deleted, are held by others or do not exist are returned as lost, in order.

        If this fails: a worker process continues a job that another one runs, or that an operator has
        deleted.
        """
        holder, other = scene.begin("a"), scene.begin("b")
        ended, deleted, kept = scene.run(holder), scene.run(holder), scene.run(holder)
        scene.settle(succeeds(ended))
        scene.settle(deletes(deleted.id))
        foreign = scene.run(other)
        held = [_held(ended), _held(deleted), _held(kept), _held(foreign), HeldClaim("unknown", 1)]

        found = scene.reconcile(holder, held)

        assert [held[0], held[1], held[3], held[4]] == [one.held for one in found.lost]

    @pytest.mark.parametrize("to", ["succeeded", "failed"])
    def test_ended_job_is_lost_with_its_end(self, scene: Scene, to: str) -> None:
        """A lost job whose own run ended it is in a final state, and has the fence of the claim and no tail.

        If this fails: a run that ended its job within a transaction of its own is cancelled, and its result
        does not count.
        """
        running = scene.run()
        scene.settle(succeeds(running) if to == "succeeded" else fails(running))
        held = _held(running, scene.stamp())

        found = scene.reconcile(running.holder, [held])

        assert [LostClaim(held, State(to), running.job.fence, has_tail=False)] == found.lost
        assert [True] == [one.has_ended for one in found.lost]

    def test_deleted_job_is_lost_with_its_tail(self, scene: Scene) -> None:
        """A lost job that was deleted while it ran has a tail, until its holder sends a result.

        If this fails: the run of a deleted job continues, because it seems to have ended the job itself.
        """
        running = scene.run()
        scene.settle(deletes(running.id))
        held = _held(running)

        with_tail = scene.reconcile(running.holder, [held])
        scene.apply(succeeds(running))
        without = scene.reconcile(running.holder, [held])

        assert [LostClaim(held, State.DELETED, running.job.fence, has_tail=True)] == with_tail.lost
        assert [LostClaim(held, State.DELETED, running.job.fence, has_tail=False)] == without.lost
        assert [False] == [one.has_ended for one in with_tail.lost]

    def test_requeued_job_is_lost_with_its_new_state(self, scene: Scene) -> None:
        """A lost job has its current state: enqueued with or without a tail, or claimed by another session.

        If this fails: the old run of a requeued job continues at the same time as the new one.
        """
        holder, other = scene.begin("a"), scene.begin("b")
        ended, deleted, taken = scene.run(holder), scene.run(holder), scene.run(holder)
        scene.settle(succeeds(ended))
        scene.settle(hands_back(taken))
        retaken = scene.run(other, taken.id)
        scene.settle(requeues(ended.id))
        scene.settle(deletes(deleted.id))
        scene.settle(requeues(deleted.id))
        held = [_held(ended), _held(deleted), _held(taken)]

        found = scene.reconcile(holder, held)

        assert [
            LostClaim(held[0], State.ENQUEUED, ended.job.fence, has_tail=False),
            LostClaim(held[1], State.ENQUEUED, deleted.job.fence, has_tail=True),
            LostClaim(held[2], State.PROCESSING, retaken.job.fence, has_tail=False),
        ] == found.lost
        assert [False] * 3 == [one.has_ended for one in found.lost]

    def test_unknown_job_is_lost_without_a_state(self, scene: Scene) -> None:
        """A lost job that was pruned, or never stored, has no state.

        If this fails: a worker process cannot detect that a job was deleted from the storage.
        """
        running = scene.run()
        scene.settle(deletes(running.id, expires_at=scene.stamp()))
        scene.advance(60)
        scene.prune()
        held = [_held(running), HeldClaim("unknown", 1)]

        found = scene.reconcile(running.holder, held)

        assert [LostClaim(one) for one in held] == found.lost
        assert [True, True] == [one.is_gone for one in found.lost]

    @pytest.mark.parametrize("heir", ["a", "b"])
    def test_claim_with_an_old_fence_is_lost(self, scene: Scene, heir: str) -> None:
        """Job and fence together identify a claim: a claim named with an old fence is lost.

        If the session itself has claimed the job again, the new claim is unknown. No start is written to it.

        If this fails: the old claim in the worker process hides a new claim of the job whose reply was lost.
        Or a worker process that lost a job writes into another attempt of it.
        """
        holder = scene.begin("a")
        stale = scene.run(holder)
        scene.settle(hands_back(stale))
        fresh = scene.run(scene.begin(heir), stale.id)
        held = _held(stale, scene.stamp())

        found = scene.reconcile(holder, [held])

        lost = LostClaim(held, State.PROCESSING, fresh.job.fence)
        assert ([lost], [fresh.job] if heir == "a" else []) == (found.lost, found.unknown)
        assert scene.record(fresh.id).started_at is None

    def test_reconcile_stores_the_start_of_a_job(self, scene: Scene) -> None:
        """The `started_at` of a held job is stored; without one, nothing is written.

        If this fails: jobs that have run for hours are shown as claimed but not started.
        """
        holder = scene.begin()
        scene.add_many(2)
        started, waiting = (Running(job, holder) for job in scene.claim(holder))
        at = scene.stamp()

        scene.reconcile(holder, [_held(started, at), _held(waiting)])
        scene.reconcile(holder, [_held(started), _held(waiting)])

        assert (at, None) == (scene.record(started.id).started_at, scene.record(waiting.id).started_at)
        assert [1, 1] == [len(scene.history(run.id)) for run in (started, waiting)]

    def test_reconcile_reports_an_ended_session_as_lost(self, scene: Scene) -> None:
        """`reconcile` reports an ended or unknown session as lost, without any jobs.

        If this fails: a worker process whose session was ended never detects it.
        """
        holder = scene.begin()
        running = scene.run(holder)
        scene.lose(holder)

        dead = scene.reconcile(holder, [_held(running)])
        unknown = scene.storage.reconcile("never-begun", [])

        lost = [LostClaim(_held(running), State.ENQUEUED, running.job.fence)]
        assert (True, lost, []) == (dead.is_session_lost, dead.lost, dead.unknown)
        assert (True, [], []) == (unknown.is_session_lost, unknown.lost, unknown.unknown)
