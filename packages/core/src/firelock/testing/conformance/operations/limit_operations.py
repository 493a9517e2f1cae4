"""Random operations on limits: jobs are created, run and end, limits change, and each claim is checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs

from firelock.model.clock import SECOND
from firelock.model.job import JobRecord, NewJob, Transition
from firelock.model.limit import Admission, LimitUse
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import Applied, Storage
from firelock.testing.conformance import scene as ends
from firelock.testing.conformance.operations.judge import (
    After,
    Before,
    ClaimAnswer,
    Keys,
    KeySettings,
    Place,
    ReadyJob,
    Unjust,
    judge,
)
from firelock.testing.conformance.operations.seeded import SeededOperations
from firelock.testing.conformance.scene import BASE, DAY, HOUR, Running, asks

_MINUTE = 60 * SECOND

_LANES: list[tuple[str, ...]] = [
    (), (), ("a", "x"), ("a", "y"), ("b",), ("b", "x"), ("t:1",), ("t:2",), ("r",), ("r", "y"), ("s",),
    ("f:1",), ("f:2",), ("f:3",),
]  # fmt: skip
_FIRST = {
    "a": KeySettings(3), "x": KeySettings(2), "b": KeySettings(2), "t": KeySettings(1), "t:2": KeySettings(3),
    "r": KeySettings(None, 10 * _MINUTE, 4), "s": KeySettings(1),
}  # fmt: skip
_QUEUES = ("default", "mail")


def _key(name: str) -> str:
    return f"kit/{name}"


@attrs.define
class _Known:
    """Facts about a job that its record does not contain."""

    number: int  # its position in the order of insertion
    keeps: set[str] = attrs.Factory(set)  # strict keys that the job holds until it has ended


class LimitOperations(SeededOperations):
    """Operations that create, run and end jobs with limits, and change limits; each claim is checked."""

    late = 0.1  # the share of jobs with limits that must start within half an hour

    def __init__(self, open_handle: Callable[[], Storage], seed: int, handles: int = 2) -> None:
        super().__init__(open_handle, seed, handles)
        self.known: dict[str, _Known] = {}
        self.living: dict[str, None] = {}  # jobs that are not known to have ended
        self.settings: dict[str, KeySettings] = {}
        self.next_arrival_at: dict[str, int] = {}
        self.paused: set[str] = set()
        self.passed_over: Counter[Place] = Counter()
        self.begun = 0
        self.held: list[Running] = []
        self.children = [self._begin(), self._begin()]
        for name, settings in _FIRST.items():
            self._put(name, settings)

    def _begin(self) -> ClaimHolder:
        self.begun += 1
        return self.scene.begin(str(self.begun))

    # ---- operations --------------------------------------------------------------------------------------

    def perform(self) -> None:
        """Perform one operation, mostly a claim."""
        self.scene.advance(self.random.choice((0, 0, 0, 60, 300, 1_020, 3_000, 7_800)))
        number = self.random.random()
        for limit, operation in self._operations:
            if number < limit:
                operation(self)
                return

    def insert(self) -> None:
        """Insert some jobs in one call."""
        jobs = [self._new_job() for _ in range(self.random.randrange(1, 9))]
        self.record(f"insert {[(job.id[-4:], self._lane(job.admission), job.queue) for job in jobs]}")
        self.scene.storage.insert(jobs)

    def _new_job(self) -> NewJob:
        random = self.random
        lane = random.choice(_LANES)
        uses = [LimitUse(_key(name), self._cost(name), is_strict=name == "s") for name in lane]
        before = self.scene.now() + HOUR // 2 if lane and random.random() < self.late else None
        fields: dict[str, object] = {
            "queue": random.choice((*_QUEUES, "default")), "priority": random.choice((0, 0, 5)),
            "colocate_with": _key("a"),
        }  # fmt: skip
        if uses:
            fields["admission"] = asks(*uses, start_before=before)
        if random.random() < 0.1:
            fields |= {"state": State.SCHEDULED, "due_at": self.scene.now() + HOUR}
        job = self.scene.new_job(**fields)
        self.known[job.id] = _Known(len(self.known))
        self.living[job.id] = None
        return job

    def _cost(self, name: str) -> int:
        return self.random.choice((1, 1, 1, 2, 0, 6)) if name == "r" else 1

    @staticmethod
    def _lane(admission: Admission | None) -> Keys:
        return () if admission is None else tuple(use.key for use in admission.limits)

    def exchange(self) -> None:
        """Let a worker process settle some of its jobs and claim new ones."""
        random = self.random
        number = random.randrange(len(self.children))
        child, storage = self.children[number], self.storages[number]
        mine = [running for running in self.held if running.holder == child]
        ending = [running for running in mine if random.random() < 0.6]
        queues = random.choice((["default"], ["default"], ["default"], ["mail"], ["default", "mail"], None))
        room = random.choice((1, 2, 4, 7, 20))
        transitions = [self._end(running) for running in ending]
        self.record(f"session {number} settles {len(ending)} jobs and claims {room} from {queues}")
        self._claim(storage, child, transitions, room, queues)

    def _end(self, running: Running) -> Transition:
        self.held.remove(running)
        how = self.random.choice((ends.succeeds, ends.succeeds, ends.fails))
        return how(running, expires_at=self.random.choice((None, BASE - DAY)))

    def come_back(self) -> None:
        """Retry a job immediately, snooze it, or hand it back."""
        running = self.some(self.held)
        if running is None:
            return
        self.held.remove(running)
        how = self.random.choice(("retries", "retries", "snoozes", "hands back"))
        self.record(f"{how} {running.id[-4:]}")
        match how:
            case "retries":
                change = ends.retries(running)
            case "snoozes":
                change = ends.snoozes(running, due_at=self.scene.now() + HOUR)
            case _:
                change = ends.hands_back(running)
        self.scene.apply(change)  # if the job was deleted, this is refused and removes its tail

    def delete(self) -> None:
        """Delete a running job, which leaves a tail, or a waiting one."""
        job_id = self.some([running.id for running in self.held] + list(self.living))
        if job_id is not None:
            self.record(f"delete {job_id[-4:]}")
            self.scene.apply(ends.deletes(job_id))

    def clear_tail(self) -> None:
        """Send the result of a deleted job; it is refused, and the job's tail is removed."""
        states = self.scene.storage.get([running.id for running in self.held])
        tails = [one for one, job in zip(self.held, states, strict=True) if job and job.is_stopping]
        tail = self.some(tails)
        if tail is not None:
            self.held.remove(tail)
            self.record(f"tail of {tail.id[-4:]} ends")
            assert self.scene.apply(ends.succeeds(tail)) is Applied.REFUSED

    def requeue(self) -> None:
        """Requeue a job that has ended."""
        known = self.scene.storage.get([one for one in self.known if one not in self.living])
        ended = [job for job in known if job and job.is_final and not self._is_strict(job)]
        job = self.some(ended)
        if job is not None:
            self.record(f"requeue {job.id[-4:]}")
            self.scene.settle(ends.requeues(job.id))
            self.living[job.id] = None

    @staticmethod
    def _is_strict(job: JobRecord) -> bool:
        return job.admission is not None and any(use.is_strict for use in job.admission.limits)

    def lose(self) -> None:
        """End a session, with or without a crash of its jobs."""
        number = self.random.randrange(len(self.children))
        child = self.children[number]
        has_crashed = self.random.random() < 0.5
        self.record(f"session {number} ends{' by a crash' if has_crashed else ''}")
        self.scene.lose(child, running=None if has_crashed else [])
        self.held = [one for one in self.held if one.holder != child]
        self.children[number] = self._begin()

    def change(self) -> None:
        """Set, lower, raise, remove or pause a limit."""
        name = self.random.choice(("a", "x", "y", "b", "t", "t:2", "f", "f:1", "r"))
        if name == "r":
            settings = KeySettings(None, 10 * _MINUTE, 4, is_closed=self.random.random() < 0.3)
        else:
            settings = KeySettings(
                self.random.choice((None, 0, 1, 2, 3, 5)), is_closed=self.random.random() < 0.1
            )
        self._put(name, settings)

    def _put(self, name: str, settings: KeySettings) -> None:
        self.record(f"set limit {name}: {settings}")
        self.settings[_key(name)] = settings
        rate = {"rate": 6, "per": HOUR, "burst": settings.burst} if settings.interval else {}
        self.scene.set_limit(
            _key(name), concurrent=settings.concurrent, paused=int(settings.is_closed), **rate
        )

    def remove(self) -> None:
        """Delete the settings of a limit."""
        name = self.random.choice(("a", "b", "t:2", "f:1"))
        self.record(f"delete limit {name}")
        self.settings.pop(_key(name), None)
        self.scene.storage.delete_record("limit", _key(name))

    def spend(self) -> None:
        """Use up part of a rate, return part of it, or block its key."""
        cost, until = self.random.choice((1, 3, -2, 0)), None
        if cost == 0:
            until = self.scene.now() + self.random.choice((10, 40)) * _MINUTE
        self.record(f"spend {cost} until {until}")
        before = self.scene.now()
        self.scene.storage.spend(_key("r"), cost=cost, until=until)
        used, interval = self.next_arrival_at.get(_key("r"), 0), 10 * _MINUTE
        used = max(used, before) + cost * interval if cost > 0 else max(0, used + cost * interval)
        if until is not None:
            used = max(used, until + 3 * interval)
        self.next_arrival_at[_key("r")] = used

    def pause(self) -> None:
        """Pause or resume a queue."""
        queue = self.random.choice(_QUEUES)
        if queue in self.paused:
            self.paused.remove(queue)
            self.scene.storage.delete_record("queue", queue)
        else:
            self.paused.add(queue)
            self.scene.storage.put_record("queue", queue, '{"paused": true}')
        self.record(f"paused queues: {self.paused}")

    def upkeep(self) -> None:
        """Enqueue the due jobs, prune, and check what the storage reports about the keys."""
        self.record("upkeep")
        self.scene.promote(100)
        self.scene.prune(20)
        self._judge_keys()

    _operations: tuple[tuple[float, Callable[[LimitOperations], None]], ...] = (
        (0.20, insert), (0.64, exchange), (0.71, come_back), (0.76, delete), (0.79, clear_tail), (0.82, lose),
        (0.88, change), (0.90, remove), (0.92, spend), (0.94, pause), (0.96, requeue), (1.01, upkeep),
    )  # fmt: skip

    # ---- claims ------------------------------------------------------------------------------------------

    def _claim(
        self,
        storage: Storage,
        child: ClaimHolder,
        transitions: list[Transition],
        room: int,
        queues: list[str] | None,
    ) -> None:
        before = self._before({one.job_id for one in transitions}, room, queues)
        answer = storage.exchange(transitions, self.scene.request(child, room, queues))
        assert all(result.is_applied or result is Applied.REFUSED for result in answer.results)
        claim = answer.claim
        now = self.scene.now()
        has_more = claim.next_claim_at is not None and claim.next_claim_at <= now
        given = ClaimAnswer([job.id for job in claim.jobs], has_more)
        self.record(f"  claimed {[id[-4:] for id in given.ids]}, claims again {has_more}")
        after = judge(attrs.evolve(before, until=now), given)
        self.next_arrival_at = after.next_arrival_at
        jobs = {
            job.id: job
            for queue in before.queues
            for lane in before.waiting.get(queue, {}).values()
            for job in lane
        }
        for running in (Running(job, child) for job in claim.jobs):
            job = jobs[running.id]
            if job.is_late:
                self.scene.settle(ends.gives_up(running))  # as a worker process does, without running the job
            else:
                self.known[job.id].keeps |= {use.key for use in job.uses if use.is_strict}
                self.held.append(running)
        self._judge_waits(before, after)

    def _before(self, ending: set[str], room: int, queues: list[str] | None) -> Before:
        now = self.scene.now()
        waiting: dict[str, dict[Keys, list[tuple[tuple[int, int, int], ReadyJob]]]] = {}
        running: Counter[str] = Counter()
        for job in self._records():
            known, uses = self.known[job.id], job.admission.limits if job.admission else ()
            is_held = job.session is not None and job.id not in ending
            if job.is_final or job.id in ending:
                known.keeps = known.keeps if is_held else set()
            running.update({use.key for use in uses} if is_held else known.keeps)
            if job.state is State.ENQUEUED and job.session is None:
                late = job.admission is not None and not job.attempt and not job.crashes
                before = job.admission.start_before if job.admission else None
                one = ReadyJob(
                    job.id, uses, late and before is not None and before < now, frozenset(known.keeps)
                )
                place = (-job.priority, job.enqueued_at or 0, known.number)
                waiting.setdefault(job.queue, {}).setdefault(one.lane, []).append((place, one))
        unpaused = [queue for queue in queues or _QUEUES if queue not in self.paused]
        for lane in (lane for of in waiting.values() for lane in of.values()):
            lane.sort(key=lambda entry: entry[0])
        return Before(
            now, now, room, unpaused, queues is not None,
            {
                queue: {lane: [one for _, one in jobs] for lane, jobs in of.items()}
                for queue, of in waiting.items()
            },
            running, self.next_arrival_at, self._all_settings(),
        )  # fmt: skip

    def _records(self) -> list[JobRecord]:
        records = [job for job in self.scene.storage.get(list(self.living)) if job is not None]
        self.living = {job.id: None for job in records if not job.is_final or job.session is not None}
        for job in records:
            if job.id not in self.living:
                self.known[job.id].keeps.clear()
        return records

    def _all_settings(self) -> dict[str, KeySettings]:
        """Return the settings of each key: its own settings, or else those of the name before the colon."""
        found = {}
        for name in {name for lane in _LANES for name in lane}:
            own = self.settings.get(_key(name), KeySettings())
            named = self.settings.get(_key(name.partition(":")[0]), KeySettings())
            has_any = own.concurrent is not None or own.interval
            found[_key(name)] = attrs.evolve(
                own if has_any else named, is_closed=own.is_closed or named.is_closed
            )
        return found

    def _judge_waits(self, before: Before, after: After) -> None:
        """Check that no lane starves.

        For each handle, a lane whose next job can start is served within as many claims as there are lanes.
        """
        lanes = [(queue, lane) for queue in before.queues for lane in before.waiting.get(queue, {})]
        for place in lanes:
            self.passed_over[place] = self.passed_over[place] + 1 if place in after.left else 0
            if self.passed_over[place] > 3 * len(_LANES):
                raise Unjust(f"lane {place} was never served although it admits jobs")

    def _judge_keys(self) -> None:
        """Check that the results of `find_keys` and `find_waiting` match the jobs."""
        before = self._before(set(), 0, None)
        waits = Counter(
            use.key
            for of in before.waiting.values()
            for jobs in of.values()
            for job in jobs
            for use in job.uses
        )
        states = {state.key: state for state in self.scene.storage.find_keys("kit/")}
        for key in {*states, *waits, *before.running}:
            running, waiting = (states[key].running, states[key].waiting) if key in states else (0, 0)
            reported, expected = (running, waiting), (before.running[key], waits[key])
            assert expected == reported, (
                f"find_keys reports {reported} running and waiting jobs of {key}, expected {expected}"
            )
        for key in waits:
            line = self.scene.storage.find_waiting(key).ids
            for lane in (lane for of in before.waiting.values() for lane in of.values()):
                wanted = [job.id for job in lane if key in job.lane]
                found = [job_id for job_id in line if job_id in wanted]
                assert wanted == found, f"find_waiting returns {found} for {key}, expected {wanted}"

    def end(self) -> None:
        """End the pauses of queues and keys, and check that all waiting jobs run.

        This shows that no ended job still holds a key.
        """
        self.record("final check")
        for child in self.children:
            self.scene.lose(child, running=[])
        self.held, self.children = [], [self._begin(), self._begin()]
        for queue in self.paused:
            self.scene.storage.delete_record("queue", queue)
        self.paused.clear()
        for name in ("a", "x", "y", "b", "t", "t:2", "f", "f:1", "r", "s"):
            self._put(name, KeySettings(1, 10 * _MINUTE, 4) if name == "r" else KeySettings(1))
        for _ in range(200):
            self.scene.advance(7_800)
            self.scene.promote(100)
            ending, self.held = [ends.succeeds(one) for one in self.held], []
            self._claim(self.storages[0], self.children[0], ending, 20, None)
            if not self.held and not self.scene.by_state().get(State.ENQUEUED):
                break
        else:
            raise Unjust("jobs still wait after 200 claims without pauses")
