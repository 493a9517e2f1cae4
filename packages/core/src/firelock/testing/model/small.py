"""The machine's rules for records, recurring jobs, locks, logs, figures and lists."""

from __future__ import annotations

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import rule

from firelock.job import LogLine, Progress, State
from firelock.storage import DURATION_BUCKETS, JobFilter, RecurringRecord, Rollup, Storage
from firelock.testing.handles import HOUR, SECOND, STAMP
from firelock.testing.model.ground import PICK, QUEUES, Ground

__all__ = ["SmallRules"]

_NAMES = st.sampled_from("abc")
_MINUTE = 60 * SECOND


class SmallRules(Ground):
    """What people and servers do with everything that is not a job's state."""

    @rule(key=_NAMES, expected=st.none() | st.integers(0, 4), value=PICK)
    def put_record(self, key: str, expected: int | None, value: int) -> None:
        """A record is put, whatever its version or at an expected one."""
        self.twin.ask(lambda storage: storage.put_record("kind", key, str(value), expected_version=expected))

    @rule(key=_NAMES, expected=st.none() | st.integers(1, 4))
    def delete_record(self, key: str, expected: int | None) -> None:
        """A record is deleted."""
        self.twin.ask(lambda storage: storage.delete_record("kind", key, expected_version=expected))

    @rule(queue=st.sampled_from(QUEUES), is_paused=st.booleans())
    def pause(self, queue: str, is_paused: bool) -> None:
        """An operator pauses or resumes a queue."""
        settings = '{"paused": true}' if is_paused else '{"note": "open"}'
        self.twin.ask(lambda storage: storage.put_record("queue", queue, settings))

    @rule(name=_NAMES, hours=st.integers(-2, 6), is_paused=st.booleans(), keep=st.booleans(), stale=PICK)
    def put_recurring(self, name: str, hours: int, is_paused: bool, keep: bool, stale: int) -> None:
        """A definition is stored or edited, now and then from a stale reading."""
        stored = self.twin.real.get_recurring(name)
        version = max(0, (stored.version if stored else 0) - (stale % 5 == 0))
        recurring = RecurringRecord(
            name, "tasks.run", f"[{stale}]", "json", "{}", "default", tags=("a", name), is_paused=is_paused,
            created_at=self.stamp(), version=version, next_at=self.instant(hours),
        )  # fmt: skip
        self.twin.ask(lambda storage: storage.put_recurring(recurring, keep_progress=keep))

    @rule(name=_NAMES, hours=st.integers(1, 6), stale=st.booleans())
    def fire_recurring(self, name: str, hours: int, stale: bool) -> None:
        """A server fires a definition as it read it, or as it was before."""
        stored = self.twin.real.get_recurring(name)
        if stored is None or stored.next_at is None:
            return
        job = self.new_job(recurring_id=name, nominal_at=stored.next_at)
        moved = attrs.evolve(stored, next_at=self.instant(hours), last_at=stored.next_at, dropped=hours)
        expected = stored.next_at - HOUR if stale else stored.next_at
        if self.twin.ask(lambda storage: storage.fire_recurring(moved, expected, [job])):
            self.jobs[job.id] = job

    @rule(name=_NAMES)
    def remove_recurring(self, name: str) -> None:
        """A definition is removed."""
        self.twin.ask(lambda storage: storage.remove_recurring(name))

    @rule(limit=st.integers(1, 3))
    def due_recurring(self, limit: int) -> None:
        """A server looks for what is due."""
        self.twin.ask(lambda storage: storage.due_recurring(limit))

    @rule(name=_NAMES, owner=_NAMES, verb=st.sampled_from(["acquire", "renew", "release"]))
    def lock(self, name: str, owner: str, verb: str) -> None:
        """An owner takes, renews or releases a lock with the newest token it knows of."""
        model, real = (self.fences.get((side, f"lock {name} {owner}"), 1) for side in ("model", "real"))
        if verb == "acquire":
            answers = [
                storage.acquire_lock(name, owner, 1.5 * 3_600)
                for storage in (self.twin.model, self.twin.real)
            ]
            assert (answers[0] is None) == (answers[1] is None), "one gave the lock, the other did not"
            for side, fence in zip(("model", "real"), answers, strict=True):
                self._note_lock(side, name, owner, fence)
        elif verb == "renew":
            self.twin.ask_each(
                lambda storage: storage.renew_lock(name, owner, model, 1.5 * 3_600),
                lambda storage: storage.renew_lock(name, owner, real, 1.5 * 3_600),
            )
        else:
            self.twin.ask_each(
                lambda storage: storage.release_lock(name, owner, model),
                lambda storage: storage.release_lock(name, owner, real),
            )

    def _note_lock(self, side: str, name: str, owner: str, fence: int | None) -> None:
        if fence is None:
            return
        tokens = {
            what: number
            for (where, what), number in self.fences.items()
            if where == side and what.startswith(f"lock {name} ")
        }
        mine = f"lock {name} {owner}"
        assert fence >= max(tokens.values(), default=0), "a token of a lock fell"
        assert {what for what, number in tokens.items() if number == fence} <= {mine}, "two have one token"
        self.fences[side, mine] = fence

    @rule(pick=PICK, number=st.integers(1, 3))
    def log(self, pick: int, number: int) -> None:
        """A child writes lines and progress, also of a job that is gone."""
        lines = [LogLine(0, self.stamp(), "INFO", f"line {one}", pick % 3) for one in range(number)]
        for job_id in [*self.picked_ids([pick]), "gone"]:
            self._log(job_id, lines, Progress(float(number), 10.0, self.stamp()))

    def _log(self, job_id: str, lines: list[LogLine], progress: Progress) -> None:
        self.twin.ask(lambda storage: storage.append_logs({job_id: lines}, {job_id: progress}))
        self.twin.ask(lambda storage: [attrs.evolve(one, number=0) for one in storage.read_log(job_id)])
        self.twin.ask(lambda storage: storage.get_progress([job_id]))

    @rule(minute=st.integers(0, 2), name=_NAMES)
    def record_metrics(self, minute: int, name: str) -> None:
        """A server adds its figures to the timeline."""
        histogram = tuple(int(place == minute) for place in range(len(DURATION_BUCKETS) + 1))
        rollup = Rollup(STAMP + minute * _MINUTE, name, "default", "succeeded", 1, minute * SECOND, histogram)
        self.twin.ask(lambda storage: storage.record_metrics([rollup, rollup]))
        self.twin.ask(lambda storage: sorted(storage.timeline(STAMP, STAMP + 2 * _MINUTE), key=str))

    @rule(
        state=st.none() | st.sampled_from(State), queue=st.none() | st.sampled_from(QUEUES),
        is_retrying=st.none() | st.booleans(), limit=st.integers(1, 4), oldest_first=st.booleans(),
    )  # fmt: skip
    def find(
        self, state: State | None, queue: str | None, is_retrying: bool | None, limit: int, oldest_first: bool
    ) -> None:
        """Somebody walks a list: each storage in its own order of time, both with the same jobs."""
        where = JobFilter(state=state, queue=queue, is_retrying=is_retrying)
        self.twin.ask(lambda storage: sorted(_walked(storage, where, limit, oldest_first=oldest_first)))


def _walked(storage: Storage, where: JobFilter, limit: int, *, oldest_first: bool) -> list[str]:
    """Return the ids of all pages; they are in order of time and id."""
    jobs = []
    page = storage.find(where, limit=limit, oldest_first=oldest_first)
    jobs += page.jobs
    while page.cursor is not None:
        page = storage.find(where, limit=limit, cursor=page.cursor, oldest_first=oldest_first)
        jobs += page.jobs
    keys = [(job.created_at if where.state is None else job.changed_at, job.id) for job in jobs]
    assert sorted(keys, reverse=not oldest_first) == keys, "a list is not in order of time"
    return [job.id for job in jobs]
