"""Exchange: ends are written before new work is taken, in one step and with each told apart."""

from __future__ import annotations

import pytest

from firelock.storage import Applied
from firelock.testing.conformance.ends import deletes, fails, hands_back, retries, succeeds
from firelock.testing.conformance.scene import Running, Scene
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.values import State

__all__ = ["ExchangeDuty"]


class ExchangeDuty(StorageFixtures):
    """What `exchange` promises beside `apply` and `claim`."""

    verbs = "exchange"

    def test_an_exchange_settles_and_claims(self, scene: Scene) -> None:
        """The ends are applied and told in order, and new work is taken.

        If this fails: a server that works by exchange alone loses ends or starves.
        """
        holder = scene.begin()
        scene.add_many(2)
        runs = [Running(job, holder) for job in scene.claim(holder)]
        waiting = scene.add()

        exchange = scene.exchange(holder, [succeeds(runs[0]), fails(runs[1])])

        assert [Applied.APPLIED, Applied.APPLIED] == exchange.results
        assert [waiting] == [job.id for job in exchange.claim.jobs]
        assert [State.SUCCEEDED, State.FAILED] == [scene.state(run.id) for run in runs]

    @pytest.mark.parametrize("queues", [["default"], None], ids=["named", "every queue"])
    def test_what_an_exchange_gives_back_it_may_take(self, scene: Scene, queues: list[str] | None) -> None:
        """The claim sees what the ends of the same exchange enqueued.

        If this fails: a job handed back is claimed with its old fence, or waits one exchange for nothing.
        """
        holder = scene.begin()
        first = scene.run(holder)

        exchange = scene.exchange(holder, [hands_back(first)], 1, queues)

        (job,) = exchange.claim.jobs
        assert ([Applied.APPLIED], first.id, 1) == (exchange.results, job.id, job.attempt)
        assert job.fence > first.job.fence
        assert Applied.REFUSED == scene.apply(succeeds(first))

    def test_a_batch_of_ends_moves_each_job_once(self, scene: Scene) -> None:
        """The counts equal the jobs after ends of several kinds, one of a job with a child since its claim.

        If this fails: what a batch writes is written again for a part of it, and counts stay wrong for ever.
        """
        holder = scene.begin()
        scene.add_many(3)
        runs = [Running(job, holder) for job in scene.claim(holder)]
        scene.continuation(runs[0].id)

        exchange = scene.exchange(holder, [succeeds(runs[0]), fails(runs[1]), succeeds(runs[2])], 0)

        assert [Applied.RELEASING, Applied.APPLIED, Applied.APPLIED] == exchange.results
        assert {State.SUCCEEDED: 2, State.FAILED: 1, State.AWAITING: 1} == scene.by_state()

    def test_an_exchange_may_only_settle_or_only_claim(self, scene: Scene) -> None:
        """No ends, or a limit of zero, are ordinary.

        If this fails: a full server cannot settle, or an idle one cannot claim.
        """
        holder = scene.begin()
        job_id = scene.add()
        scene.add()

        claims = scene.exchange(holder, [], 1)
        (job,) = claims.claim.jobs
        settles = scene.exchange(holder, [succeeds(Running(job, holder))], 0)

        assert ([], job_id) == (claims.results, job.id)
        assert ([Applied.APPLIED], [], False) == (
            settles.results, settles.claim.jobs, settles.claim.is_session_lost,
        )  # fmt: skip

    def test_a_dead_session_settles_nothing_and_learns_of_its_death(self, scene: Scene) -> None:
        """Ends of a dead session are refused, its claim takes nothing, and the exchange says that it is lost.

        If this fails: a server that was given up goes on working.
        """
        holder = scene.begin("dead")
        running = scene.run(holder)
        scene.lose(holder)

        exchange = scene.exchange(holder, [succeeds(running), retries(running)])

        assert Applied.REFUSED == exchange.results[0]
        assert ([], True) == (exchange.claim.jobs, exchange.claim.is_session_lost)
        assert (State.ENQUEUED, 0) == (scene.state(running.id), scene.record(running.id).retries)

    def test_an_exchange_carries_everybodys_transitions(self, scene: Scene) -> None:
        """An operator's change and another session's end pass through an exchange like any other.

        If this fails: an exchange ties its transitions to the claiming session.
        """
        one, other = scene.begin("a"), scene.begin("b")
        running = scene.run(other)
        waiting = scene.add()

        exchange = scene.exchange(one, [deletes(waiting), succeeds(running)])

        assert ([Applied.APPLIED, Applied.APPLIED], []) == (exchange.results, exchange.claim.jobs)

    def test_an_exchange_tells_of_continuations(self, scene: Scene) -> None:
        """The end of a parent answers `releasing` also when it comes by exchange.

        If this fails: continuations wait for the next round of upkeep.
        """
        holder = scene.begin()
        running = scene.run(holder)
        child = scene.continuation(running.id)

        exchange = scene.exchange(holder, [succeeds(running)])

        assert [Applied.RELEASING] == exchange.results
        assert 1 == scene.release()
        assert State.ENQUEUED == scene.state(child)
