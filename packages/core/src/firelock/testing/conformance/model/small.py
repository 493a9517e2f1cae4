"""The machine's rules for records, recurring jobs, locks, logs, figures and lists."""

from __future__ import annotations

from itertools import chain

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import rule

from firelock.storage import DURATION_BUCKETS, Applied, JobFilter, RecordChange, Rollup, Storage
from firelock.testing.conformance.handles import SECOND, STAMP
from firelock.testing.conformance.model.ground import PICK, QUEUES, Ground
from firelock.testing.conformance.scene import pages
from firelock.values import LogLine, Progress, State

__all__ = ["SmallRules"]

_NAMES = st.sampled_from("ab")
_MINUTE = 60 * SECOND
_TTL = 1.5 * 3_600.0


class SmallRules(Ground):
    """What people and servers do with everything that is not a job's state."""

    # ---- records -----------------------------------------------------------------------------------------

    @rule(key=_NAMES, expected=st.none() | st.integers(0, 3), deletes=st.booleans())
    def record(self, key: str, expected: int | None, deletes: bool) -> None:
        """A record is put or deleted, whatever its version or at an expected one."""
        if deletes:
            self.twin.ask(lambda storage: storage.delete_record("kind", key, expected_version=expected))
        else:
            value = str(self.stamp())
            self.twin.ask(lambda storage: storage.put_record("kind", key, value, expected_version=expected))
        self.twin.ask(lambda storage: storage.list_records("kind", after="a", limit=1))

    @rule(queue=st.sampled_from(QUEUES), is_paused=st.booleans())
    def pause(self, queue: str, is_paused: bool) -> None:
        """An operator pauses or resumes a queue."""
        settings = '{"paused": true}' if is_paused else '{"note": "open"}'
        self.twin.ask(lambda storage: storage.put_record("queue", queue, settings))

    # ---- recurring ---------------------------------------------------------------------------------------

    @rule(name=_NAMES, hours=st.none() | st.integers(-2, 3), deletes=st.booleans())
    def define(self, name: str, hours: int | None, deletes: bool) -> None:
        """A definition is stored, edited, paused or removed."""
        if deletes and hours is None:
            self.twin.ask(lambda storage: storage.delete_record("recurring", name))
            return
        due_at = None if hours is None else self.instant(hours)
        value = str(self.stamp())
        self.twin.ask(lambda storage: storage.put_record("recurring", name, value, due_at=due_at))

    @rule(hours=st.none() | st.integers(1, 3), how=st.sampled_from(["as read", "late", "twice"]))
    def fire(self, hours: int | None, how: str) -> None:
        """A server looks for what is due and fires the first, as it read it, as it was before, or twice."""
        due = self.twin.ask(lambda storage: storage.due_records("recurring", 2))
        if not due:
            return
        first = due[0]
        job = self.new_job(recurring_id=first.key, nominal_at=first.due_at)
        moved = RecordChange(
            "recurring", first.key, str(self.stamp()), first.version - (how == "late"),
            None if hours is None else self.instant(hours),
        )  # fmt: skip
        answer = self.twin.ask(lambda storage: storage.insert([job], only_if=moved))
        if how == "twice":
            self.twin.ask(lambda storage: storage.insert([job], only_if=moved))
        if answer is not None and answer.record is Applied.APPLIED:
            self.jobs[job.id] = job

    # ---- locks -------------------------------------------------------------------------------------------

    @rule(owner=_NAMES, verb=st.sampled_from(["acquire", "renew", "release"]), is_stale=st.booleans())
    def lock(self, owner: str, verb: str, is_stale: bool) -> None:
        """An owner takes, renews or releases the lock with a token that it, or somebody, was given."""
        if verb == "acquire":
            self._acquire(owner)
            return
        tokens = self.tokens[:-1] if is_stale else self.tokens
        holder, model, real = tokens[-1] if tokens else (owner, 0, 0)  # which nobody was given
        who = owner if is_stale else holder
        if verb == "renew":
            self.twin.ask_each(
                lambda storage: storage.renew_lock("lock", who, model, _TTL),
                lambda storage: storage.renew_lock("lock", who, real, _TTL),
            )
        else:
            self.twin.ask_each(
                lambda storage: storage.release_lock("lock", who, model),
                lambda storage: storage.release_lock("lock", who, real),
            )

    def _acquire(self, owner: str) -> None:
        model = self.twin.model.acquire_lock("lock", owner, _TTL)
        real = self.twin.real.acquire_lock("lock", owner, _TTL)
        assert (model is None) == (real is None), f"the model gave {model}, the storage {real}"
        if model is not None and real is not None:
            holder, old_model, old_real = self.tokens[-1] if self.tokens else (owner, 0, 0)
            assert (model > old_model) == (real > old_real), "one gave a new token, the other the old one"
            assert real > old_real or (real == old_real and holder == owner), "a token fell, or passed on"
            self.tokens.append((owner, model, real))

    # ---- what people read --------------------------------------------------------------------------------

    @rule(pick=PICK, number=st.integers(1, 3))
    def report(self, pick: int, number: int) -> None:
        """A child writes lines, progress and figures, also of a job that is gone."""
        lines = [LogLine(0, self.stamp(), "INFO", f"line {one}", number) for one in range(number)]
        for job_id in [*self.picked_ids([pick]), "gone"]:
            self._log(job_id, lines, Progress(float(number), 10.0, self.stamp()))
        histogram = tuple(int(place == number) for place in range(len(DURATION_BUCKETS) + 1))
        rollup = Rollup(STAMP + number * _MINUTE, "task", "default", "succeeded", 1, SECOND, histogram)
        self.twin.ask(lambda storage: storage.record_metrics([rollup, rollup]))
        self.twin.ask(lambda storage: storage.timeline(STAMP + _MINUTE, STAMP + 3 * _MINUTE))

    def _log(self, job_id: str, lines: list[LogLine], progress: Progress) -> None:
        self.twin.ask(lambda storage: storage.append_logs({job_id: lines}, {job_id: progress}))
        self.twin.ask(lambda storage: [attrs.evolve(one, number=0) for one in storage.read_log(job_id)])
        self.twin.ask(lambda storage: [one and one.progress for one in storage.get([job_id])])
        numbers = [line.number for line in self.twin.real.read_log(job_id)]
        assert sorted(set(numbers)) == numbers, "lines of a log are not in order of number"

    @rule(
        where=st.builds(
            JobFilter, state=st.none() | st.sampled_from(State), queue=st.none() | st.sampled_from(QUEUES),
            is_retrying=st.none() | st.booleans(), by_due=st.sampled_from([None, True]),
        ),
        limit=st.integers(1, 4), oldest_first=st.booleans(),
    )  # fmt: skip
    def find(self, where: JobFilter, limit: int, oldest_first: bool) -> None:
        """Somebody walks a list: each storage in its own order of time, both with the same jobs."""
        self.twin.ask(lambda storage: sorted(_walked(storage, where, limit, oldest_first=oldest_first)))
        self.twin.ask(
            lambda storage: [(one.fingerprint, one.count, one.newest_at) for one in storage.failure_groups(5)]
        )


def _walked(storage: Storage, where: JobFilter, limit: int, *, oldest_first: bool) -> list[str]:
    """Return the ids of all pages; they are in order of time and id."""
    jobs = list(chain.from_iterable(pages(storage, where, limit, oldest_first=oldest_first)))
    name = "due_at" if where.by_due else "created_at" if where.state is None else "changed_at"
    keys = [(getattr(job, name), job.id) for job in jobs]
    assert sorted(keys, reverse=not oldest_first) == keys, "a list is not in order of time"
    return [job.id for job in jobs]
