"""Continuations: which end of a parent starts them."""

from __future__ import annotations

import pytest

from firelock.job import Job
from firelock.retry import Retry
from firelock.testing.conformance.server.stage import ServerFixtures, Stage
from firelock.values import State

__all__ = ["ContinuingDuty"]

_SUCCEEDED, _FAILED, _DELETED = State.SUCCEEDED, State.FAILED, State.DELETED


class ContinuingDuty(ServerFixtures):
    """A child runs after the end that it waits for, and is deleted after another."""

    def _parent(self, stage: Stage, *, fails: bool) -> Job[None]:
        def ends(fails: bool) -> None:
            if fails:
                raise ValueError("boom")

        return stage.app.task(name="kit.ends", retry=Retry.never())(ends).enqueue(fails)

    def _child(self, stage: Stage, parent: Job[None], on: str) -> Job[None]:
        def follows() -> None: ...

        return parent.then(stage.app.task(name="kit.follows")(follows).using(on=on))  # type: ignore[arg-type]  # one of the four

    @pytest.mark.parametrize(
        ("on", "end", "expected"),
        [
            ("succeeded", _SUCCEEDED, _SUCCEEDED),
            ("succeeded", _DELETED, _DELETED),
            ("failed", _FAILED, _SUCCEEDED),
            ("failed", _SUCCEEDED, _DELETED),
            ("failed", _DELETED, _DELETED),
            ("deleted", _DELETED, _SUCCEEDED),
            ("deleted", _SUCCEEDED, _DELETED),
            ("finished", _SUCCEEDED, _SUCCEEDED),
            ("finished", _FAILED, _SUCCEEDED),
            ("finished", _DELETED, _SUCCEEDED),
        ],
    )
    def test_a_child_follows_its_parents_end(
        self, stage: Stage, on: str, end: State, expected: State
    ) -> None:
        """A child that waits for this end runs, another one is deleted; both say which end it was."""
        parent = self._parent(stage, fails=end is State.FAILED)
        child = self._child(stage, parent, on)
        if end is State.DELETED:
            parent.delete()

        stage.serve(stage.another_app(sweep=60))

        assert end == stage.ended(parent).state
        assert expected == stage.ended(child).state
        assert f"parent {end}" == child.history()[1].reason
        assert 3 - (expected is State.DELETED) == len(child.history())

    @pytest.mark.parametrize("on", ["succeeded", "deleted"])
    def test_a_child_of_a_failed_parent_waits_and_says_so(self, stage: Stage, on: str) -> None:
        """A failed parent may be requeued, so the child goes on waiting, with the reason to be read."""
        parent = self._parent(stage, fails=True)
        child = self._child(stage, parent, on)

        stage.serve(stage.another_app(sweep=60))
        stage.ended(parent)

        record = stage.when(child, lambda record: "parent failed" in str(record.reason))
        assert State.AWAITING == record.state

    def test_a_child_made_after_the_end_runs_at_once(self, stage: Stage) -> None:
        """A continuation of a job that has ended already is not left waiting."""
        parent = self._parent(stage, fails=False)
        stage.serve()
        stage.ended(parent)

        child = self._child(stage, parent, "succeeded")

        assert State.SUCCEEDED == stage.ended(child).state
