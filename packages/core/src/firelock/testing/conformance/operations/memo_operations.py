"""Random operations on jobs that wait and store memos; a copy of the memos predicts each result.

Between two requeues that delete memos, all runs of a job read the same value for a name. The value of an
accepted signal is used, and the job that waits for it continues. A call of an old run changes nothing. A
deleted memo never returns.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from firelock.model.clock import SECOND
from firelock.model.job import JobRecord
from firelock.model.memo import MemoKind, memo_words
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import Applied, Storage
from firelock.testing.conformance import scene as ends
from firelock.testing.conformance.flow_scene import FlowScene, forgets, sleeps, suspends
from firelock.testing.conformance.operations.seeded import SeededOperations
from firelock.testing.conformance.scene import HOUR, Running

_NAMES = ("a", "b", "a:2")
_Key = tuple[MemoKind, str]
_BEGUN = (MemoKind.SIGNAL, MemoKind.CALL)  # kinds of memos that can be stored before they are done


@attrs.define
class _Kept:
    """The memo that is expected for one name."""

    value: str | None
    is_done: bool


@attrs.define
class _Foreseen:
    """The expected state of one job."""

    memos: dict[_Key, _Kept] = attrs.field(factory=dict)  # ordered by place
    waits_for: str | None = None


class MemoOperations(SeededOperations):
    """Operations in which two jobs wait, sleep, crash, end, store and delete memos, and receive signals."""

    def __init__(self, open_handle: Callable[[], Storage], seed: int, handles: int = 2) -> None:
        super().__init__(open_handle, seed, handles)
        self.flow = FlowScene(self.handles)
        self.known = {job_id: _Foreseen() for job_id in self.flow.add_many(2)}
        self.held: dict[str, Running] = {}
        self.old: list[Running] = []
        self.begun = 0
        self.child = self._begin()

    def _begin(self) -> ClaimHolder:
        self.begun += 1
        return self.flow.begin(str(self.begun))

    @property
    def flow_of(self) -> FlowScene:
        """The scene with one of its handles, chosen at random."""
        self.flow.storage = self.random.choice(self.storages)
        return self.flow

    def perform(self) -> None:
        """Perform one operation, then check that the stored state is the expected one."""
        chosen = self.random.choices(list(self._OPERATIONS), weights=list(self._OPERATIONS.values()))[0]
        chosen(self)
        for job_id, known in self.known.items():
            kept = {key: memo.value for key, memo in known.memos.items()}
            assert list(kept.items()) == list(self.flow_of.recalled(job_id).items()), (
                f"unexpected memos of {job_id[-4:]}"
            )
            record = self.flow_of.record(job_id)
            assert record.waits_for == known.waits_for, (
                f"{job_id[-4:]} waits for {record.waits_for}, expected {known.waits_for}"
            )
            assert (record.state is State.AWAITING) == (
                known.waits_for is not None and not known.waits_for.startswith("sleep")
            )

    def _job(self) -> str:
        return self.random.choice(list(self.known))

    # ---- runs --------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        """Claim the available jobs, and check the memos that their runs can read."""
        for running in self.flow_of.take(self.child):
            self.record(f"claim {running.id[-4:]}")
            self.held[running.id] = running
            memos = self.known[running.id].memos
            assert running.job.has_memos >= bool(memos), "a claim reported no memos for a job that has some"
            found = self.flow_of.recall_of(running)
            assert found is not None
            assert [(memo.kind, memo.name, memo.value, memo.is_done) for memo in found] == [
                (*key, memo.value, memo.is_done) for key, memo in memos.items()
            ]

    def _remember(self) -> None:
        """Store a begun or finished memo of a current or old run."""
        is_old = bool(self.old) and self.random.random() < 0.3
        running = self.some(self.old if is_old else list(self.held.values()))
        if running is None:
            return
        kind, name = self.random.choice(list(MemoKind)), self.random.choice(_NAMES)
        is_done = kind not in _BEGUN or self.random.random() < 0.6
        replaces, value = self.random.random() < 0.8, f'"{len(self.recorded)}"'
        answer = self.flow_of.keep(running, name, value, kind=kind, is_done=is_done, replaces=replaces)
        self.record(f"{running.id[-4:]}, {is_old=}, keeps {kind} {name} {value} {is_done=}: {answer}")
        if is_old:
            assert answer.answer is Applied.REFUSED
            assert self.flow_of.recall_of(running) is None
            return
        self._check_result(running.id, (kind, name), _Kept(value, is_done), answer.answer, replaces=replaces)

    def _check_result(
        self, job_id: str, key: _Key, memo: _Kept, answer: Applied, *, replaces: bool = True
    ) -> None:
        memos = self.known[job_id].memos
        before = memos.get(key)
        if before is None or (not before.is_done and replaces):
            assert answer is Applied.APPLIED, f"got {answer} for a new memo"
            memos[key] = memo
        else:
            assert answer is Applied.TAKEN, f"got {answer}, but {before} was already stored"

    def _suspend(self) -> None:
        """Let a run wait for a signal; for an old run, this is refused."""
        running, is_old = self._sender()
        if running is None:
            return
        name = self.random.choice(_NAMES)
        due_at = self.flow.now() + 2 * HOUR if self.random.random() < 0.5 else None
        result = self.flow_of.apply(suspends(running, name, due_at=due_at))
        self.record(f"{running.id[-4:]} waits for {name} until {due_at}: {result}")
        if self._is_settled(running, result, is_old=is_old):
            memo = self.known[running.id].memos.get((MemoKind.SIGNAL, name))
            is_there = memo is not None and memo.is_done
            self.known[running.id].waits_for = None if is_there else memo_words(MemoKind.SIGNAL, name)
            expected = State.ENQUEUED if is_there else State.AWAITING
            assert self.flow_of.state(running.id) is expected

    def _sleep(self) -> None:
        """Let a run sleep; for an old run, this is refused."""
        running, is_old = self._sender()
        if running is None:
            return
        result = self.flow_of.apply(sleeps(running, "night", due_at=self.flow.now() + 2 * HOUR))
        self.record(f"{running.id[-4:]} sleeps: {result}")
        if self._is_settled(running, result, is_old=is_old):
            self.known[running.id].waits_for = "sleep night"

    def _end_one(self) -> None:
        """End a run; for an old run, this is refused."""
        running, is_old = self._sender()
        if running is None:
            return
        how = self.random.choice(["succeeds", "fails", "retries at once", "retries later", "gives up"])
        result = self.flow_of.apply(ends.ENDS[how](running))
        self.record(f"{running.id[-4:]} {how}: {result}")
        self._is_settled(running, result, is_old=is_old)

    def _sender(self) -> tuple[Running | None, bool]:
        is_old = bool(self.old) and self.random.random() < 0.2
        return self.some(self.old if is_old else list(self.held.values())), is_old

    def _is_settled(self, running: Running, result: Applied, *, is_old: bool) -> bool:
        """Return whether the run has ended; the result of an old run must have been refused."""
        if is_old:
            assert result in (Applied.REFUSED, Applied.ALREADY)
            return False
        assert result.is_applied
        self.old.append(self.held.pop(running.id))
        return True

    def _lose(self) -> None:
        """End the session."""
        self.record("the session ends")
        self.flow_of.lose(self.child)
        self.old += self.held.values()
        self.held, self.child = {}, self._begin()

    # ---- signals, time and operators ---------------------------------------------------------------------

    def _send(self) -> None:
        """Send a signal."""
        job_id, name = self._job(), self.random.choice(_NAMES)
        value, before = f'"{len(self.recorded)}"', self.flow_of.state(job_id)
        answer = self.flow_of.send(job_id, name, value)
        self.record(f"signal {name} to {job_id[-4:]}: {answer}")
        if before in (State.SUCCEEDED, State.DELETED):
            assert answer is Applied.REFUSED
            return
        self._check_result(job_id, (MemoKind.SIGNAL, name), _Kept(value, True), answer)
        if self.known[job_id].waits_for == memo_words(MemoKind.SIGNAL, name):
            assert answer is Applied.APPLIED, "a job waited for a signal that was already stored"
            self.known[job_id].waits_for = None
            assert self.flow_of.state(job_id) is State.ENQUEUED, "an accepted signal did not enqueue its job"

    def _pass_time(self) -> None:
        """Move the clock forward by an hour, and let the due jobs continue."""
        self.flow.advance(HOUR / SECOND)
        due = [job_id for job_id in self.known if self._is_due(self.flow.record(job_id))]
        promoted = self.flow_of.promote().promoted
        self.record(f"promoted {promoted}")
        assert promoted == len(due)
        for job_id in due:
            self.known[job_id].waits_for = None
            assert self.flow_of.state(job_id) is State.ENQUEUED

    def _is_due(self, record: JobRecord) -> bool:
        return record.due_at is not None and record.due_at <= self.flow.now()

    def _operate(self) -> None:
        """Delete a job, or requeue it, perhaps deleting one of its memos and all later ones."""
        job_id = self._job()
        known, before = self.known[job_id], self.flow_of.state(job_id)
        how = self.random.choice(["requeue", "requeue", "again", "again", "delete"])
        if how == "delete":
            if self.random.random() < 0.5 and before is not State.DELETED:
                self.record(f"delete {job_id[-4:]}")
                self.flow_of.settle(ends.deletes(job_id))
                known.waits_for = None
                if job_id in self.held:
                    self.old.append(self.held.pop(job_id))
            return
        key = self.random.choice(list(known.memos)) if how == "again" and known.memos else None
        is_there = key is not None and self.random.random() < 0.9
        gone = key if is_there else (MemoKind.STEP, "unknown")
        change = ends.requeues(job_id) if how == "requeue" else forgets(job_id, *gone)  # type: ignore[misc]
        result = self.flow_of.apply(change)
        self.record(f"{how} {job_id[-4:]} from {gone}: {result}")
        may = before not in (State.ENQUEUED, State.PROCESSING) and (how == "requeue" or is_there)
        assert result is (Applied.APPLIED if may else Applied.REFUSED)
        if not may:
            return
        known.waits_for = None
        if how == "again":
            names = list(known.memos)
            for name in names[names.index(key) :]:  # type: ignore[arg-type]
                del known.memos[name]

    _OPERATIONS: dict[Callable[[MemoOperations], None], int] = {  # noqa: RUF012 - never changed
        _claim: 8, _remember: 12, _suspend: 6, _sleep: 1, _end_one: 3, _lose: 1, _send: 7, _pass_time: 2,
        _operate: 5,
    }  # fmt: skip

    def end(self) -> None:
        """Check that each job that waits for a signal continues when the signal is sent."""
        for job_id, known in self.known.items():
            waits_for = known.waits_for or ""
            if waits_for.startswith("signal"):
                assert self.flow.send(job_id, waits_for.partition(" ")[2]) is Applied.APPLIED
                assert self.flow.state(job_id) is State.ENQUEUED
