"""The state machine, what has to hold after each of its steps, and how it is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import attrs
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, run_state_machine_as_test

from firelock.lifecycle import ALLOWED, is_legal
from firelock.memory import MemoryStorage
from firelock.storage import Storage
from firelock.testing.conformance.model.jobs import JobRules
from firelock.testing.conformance.model.small import SmallRules
from firelock.testing.conformance.model.twin import Twin
from firelock.values import HistoryEntry, JobRecord, State

__all__ = ["StorageMachine", "machine_for", "run_machine"]

_STAGES = ((8, True), (30, False))  # steps of a run, whether they are short


class StorageMachine(JobRules, SmallRules, RuleBasedStateMachine):
    """Drives a storage and the model side by side."""

    @staticmethod
    def open_handle() -> Storage:
        """Return the storage under test; `machine_for` says which."""
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        """Both know two sessions and two jobs."""
        real = self.open_handle()
        real.clear()
        self.twin = Twin(MemoryStorage(), real)
        self.begin_session(9)
        self.enqueue(0, 2)
        self.begin_session(40)

    def teardown(self) -> None:
        """Every history is the same to the end."""
        if hasattr(self, "twin"):
            try:
                self._compare_pasts(list(self.jobs))
            finally:
                self.twin.real.close()

    # ---- what is compared --------------------------------------------------------------------------------

    @invariant()
    def everything_holds(self) -> None:
        """Both hold the same, and what they hold fits together."""
        self._both_hold_the_same()
        self._counts_are_a_recount()
        self._only_the_living_hold()
        self._fields_fit_their_state()

    def _both_hold_the_same(self) -> None:
        """Jobs, counts, sessions, records and definitions are the model's."""
        ids = sorted({*self.jobs, *self.records})
        model, real = (
            [self._free(one) for one in storage.get(ids)] for storage in (self.twin.model, self.twin.real)
        )
        self.twin.compare(model, real)
        self.twin.ask(lambda storage: storage.counts())
        self.twin.ask(lambda storage: storage.list_sessions())
        self.twin.ask(lambda storage: storage.list_records("kind"))
        self.twin.ask(lambda storage: storage.list_records("recurring"))
        records = {record.id: record for record in self.twin.real.get(ids) if record is not None}
        self._compare_pasts([one for one, record in records.items() if self.records.get(one) != record])
        self.records = records

    def _free(self, record: JobRecord | None) -> JobRecord | None:
        if record is None or record.id not in self.joins:
            return record
        return attrs.evolve(record, reason=None, expires_at=None)

    def _compare_pasts(self, ids: list[str]) -> None:
        for job_id in ids:
            model, real = (storage.history(job_id).entries for storage in (self.twin.model, self.twin.real))
            self.twin.compare(
                [self._free_entry(job_id, one) for one in model],
                [self._free_entry(job_id, one) for one in real],
            )
            self.twin.ask(lambda storage, job_id=job_id: storage.history(job_id).errors)  # type: ignore[misc]
            for before, after in pairwise(real):
                assert _may_follow(before.state, after.state), f"from {before.state} to {after.state}"

    def _free_entry(self, job_id: str, entry: HistoryEntry) -> HistoryEntry:
        return attrs.evolve(entry, reason=None) if job_id in self.joins else entry

    # ---- what holds of the storage alone -----------------------------------------------------------------

    def _counts_are_a_recount(self) -> None:
        """Counts equal the jobs."""
        recount = Counter((record.queue, record.state) for record in self.records.values())
        counts = {
            (queue, state): number
            for queue, states in self.twin.real.counts().by_queue.items()
            for state, number in states.items()
            if number
        }
        assert dict(recount) == counts

    def _only_the_living_hold(self) -> None:
        """What is processing, or has a tail, is in the hands of a living session."""
        living = {one.session.id for one in self.twin.real.list_sessions() if one.is_alive}
        held = {record.session for record in self.records.values() if record.session is not None}
        assert held <= living
        assert all(record.session for record in self.records.values() if record.state is State.PROCESSING)

    def _fields_fit_their_state(self) -> None:
        """Instants and results are set in the states they belong to, and in no other."""
        for record in self.records.values():
            assert (record.ended_at is not None) == record.is_final
            assert record.expires_at is None or record.is_final
            assert (record.due_at is not None) == (record.state is State.SCHEDULED)
            assert record.enqueued_at is not None or record.state not in (State.ENQUEUED, State.PROCESSING)
            assert record.result is None or record.state is State.SUCCEEDED


def _may_follow(before: State, after: State) -> bool:
    """Tell whether an entry may follow the other; claims write none."""
    return is_legal(before, after) or (before is State.ENQUEUED and after in ALLOWED[State.PROCESSING])


def machine_for(open_handle: Callable[[], Storage]) -> type[StorageMachine]:
    """Return the machine that drives the storage which this function opens, again for each run."""
    return type("StorageMachine", (StorageMachine,), {"open_handle": staticmethod(open_handle)})


def run_machine(machine: type[StorageMachine], *, shrinks: bool = True, runs: int = 100) -> None:
    """So many short runs and as many long ones found no difference; always the same ones.

    A short run that differs is shrunk, a long one is told as it was, since shrinking it takes minutes. With a
    Hypothesis profile that sets how many examples or steps there are, all that it says counts instead.
    """
    if _numbers(settings()) != _numbers(settings.get_profile("default")):
        _run(machine, settings())
        return
    for steps, is_short in _STAGES:
        phases = [Phase.generate, Phase.shrink] if is_short and shrinks else [Phase.generate]
        fixed = settings(
            max_examples=runs, stateful_step_count=steps, phases=phases, derandomize=True, database=None
        )
        _run(machine, fixed)


def _numbers(profile: settings) -> tuple[int, int]:
    return profile.max_examples, profile.stateful_step_count


def _run(machine: type[StorageMachine], wanted: settings) -> None:
    run_state_machine_as_test(
        machine, settings=settings(wanted, deadline=None, suppress_health_check=list(HealthCheck))
    )
