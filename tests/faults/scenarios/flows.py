"""F55: batches and jobs with steps while processes are killed, compared with a separate ledger."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count, pairwise

import attrs

from firelock import JobConflict
from firelock.storage import FINAL_STATES, JobFilter, State
from tests.faults import flow_clients
from tests.faults.checker import is_legal, stored
from tests.faults.flow_clients import stubs
from tests.faults.points import deaths, note_killed
from tests.faults.program import run_program
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.scenarios.kills import kill_whole, left_over
from tests.faults.servers import eventually
from tests.faults.snapshots import snapshots_of

_MEMBERS = 40  # per batch: half of them in two inner batches
_POINTS = (
    "claim:within", "claim:behind", "run", "end:before", "end:within", "end:behind",
    "fold:within", "fold:behind", "promote:within", "promote:behind",
    "step:before", "memo:before", "memo:within", "memo:behind", "recall:behind",
    "nap:behind", "wait:behind", "suspend:before", "suspend:within", "suspend:behind",
    "name:behind", "child:within", "child:behind",
)  # fmt: skip
_FEW = ("claim:within", "fold:within", "memo:before", "memo:behind", "name:behind", "suspend:before")
_FEW_CLIENTS = ("chunk 2", "sweep:within", "send:behind")
_EVERY = 4  # calls at which a worker process may die, one of which is the last
_SERVERS, _PROCESSES, _WORKERS = 2, 3, 5
_APART = 30.0  # seconds from one kill of a whole server to the next
_PAUSE = 0.7  # seconds between two batches if there are as many as requested
_ORDERS, _RACERS = 4, 2  # per batch
_AHEAD = 1_500  # jobs that may wait
_PER_CHECK = 30  # batches per check
_DYING = 0.25  # seconds for which other threads of a process may still act when it has reached its point


@attrs.frozen
class Sent:
    """A decision that was sent: its job, its value, and whether the storage accepted it as the first."""

    job: str
    payload: int
    is_first: bool


@attrs.define(eq=False)
class Feed:
    """The objects that the scenario's own process creates, sends decisions to and observes."""

    on: object
    chance: random.Random = attrs.Factory(lambda: random.Random(55))
    tasks: dict = attrs.field(init=False)
    decision: object = attrs.field(init=False)
    batches: dict = attrs.Factory(dict)  # ids by label
    last: object = None  # one of the batches; the next batch is sometimes its continuation
    inner: list = attrs.Factory(list)
    orders: dict = attrs.Factory(dict)  # ids by number
    racers: list = attrs.Factory(list)
    undecided: list = attrs.Factory(list)
    sent: list = attrs.Factory(list)
    requeued: Counter = attrs.Factory(Counter)
    snapshots: Counter = attrs.Factory(Counter)
    wrong: list = attrs.Factory(list)  # inexact counts

    def __attrs_post_init__(self):
        """Create the stubs and the signal."""
        self.tasks = stubs(self.on.fire)
        self.decision = self.on.fire.signal("decision", int)

    def make(self, number):
        """Store another batch, and jobs with steps."""
        fire, member = self.on.fire, self.tasks["member"]
        label = f"b{number}"
        stops = number % 7 == 3
        fails = number % 3 == 0 and not stops  # a cancelled inner batch would keep its failed members
        after = [self.last] if self.last and number % 5 == 4 else ()
        on_failure = "cancel" if stops else "continue"
        with fire.batch(label, after=after, on="finished", on_failure=on_failure) as batch:
            first = [batch.add(member, label, 0.004, fails and place < 2) for place in range(4)]
            for _ in range(10):
                batch.add(member, label, 0.004, stops and self.chance.random() < 0.1)
            batch.add(self.tasks["total"], label, [one.output for one in first])
            batch.add(member.using(after=first[3]), label, 0.004, fails and number % 2 == 0)
            for name in ("one", "other"):
                with batch.batch(name) as inner:
                    for place in range(_MEMBERS // 4 + 1):
                        inner.add(member, label, 0.004, fails and place == 0)
                self.inner.append(inner.id)
            batch.then(self.tasks["callback"].using(on="finished"), label, "finished")
            batch.then(self.tasks["callback"], label, "succeeded")
        self.batches[label], self.last = batch.id, batch
        numbers = range(number * _ORDERS, (number + 1) * _ORDERS)
        jobs = self.tasks["order"].enqueue_many([(one,) for one in numbers])
        self.orders |= {job.id: one for job, one in zip(jobs, numbers, strict=True)}
        self.undecided += [job.id for job in jobs]
        self.racers += [job.id for job in self.tasks["racer"].enqueue_many([()] * _RACERS)]

    def decide(self, most):
        """Send decisions to some orders, sometimes two at the same time."""
        self.chance.shuffle(self.undecided)
        for _ in range(min(most, len(self.undecided))):
            job_id = self.undecided.pop()
            rivals = 2 if self.chance.random() < 0.2 else 1
            payloads = self.chance.sample(range(1_000_000), rivals)
            with ThreadPoolExecutor(rivals) as threads:
                self.sent += threads.map(lambda payload, job_id=job_id: self._send(job_id, payload), payloads)

    def _send(self, job_id, payload):
        try:
            return Sent(job_id, payload, self.decision.send(job_id, payload))
        except JobConflict:
            return Sent(job_id, payload, is_first=False)

    def requeue_failed(self, *, with_batch):
        """Requeue failed jobs, members with their batch or separately; return how many."""
        number = 0
        for record in self.on.fire.storage.find(JobFilter(state=State.FAILED), limit=500).jobs:
            relations = record.relations
            is_member = relations is not None and relations.batch_id is not None and not record.is_batch
            if (is_member and with_batch) or (record.is_batch and not with_batch):
                continue
            job = (self.on.fire.batches if record.is_batch else self.on.fire.jobs).get(record.id)
            try:
                job.requeue()
            except JobConflict:
                continue
            number += 1
            self.requeued[record.id] += 1
        return number

    def check_counts(self):
        """Read some of the batches, each in one snapshot."""
        ids = [*self.batches.values(), *self.inner]
        some = self.chance.sample(ids, min(_PER_CHECK, len(ids)))
        for snapshot in snapshots_of(self.on.fire.storage, some):
            self.snapshots["all"] += 1
            self.snapshots["moving"] += not snapshot.is_at_rest
            if not snapshot.is_exact:
                self.wrong.append(snapshot)


@scenario("kill-flows", "F55", full=Size(20_000, 20), short=Size(40, 1))
def kill_flows(place, size):
    """`kill -9` ends servers, worker processes and clients, some at named points, with batches and signals.

    `jobs` is the number of members, in batches of 40. For every ten members there is a job with steps, and
    for every twenty a race between a signal and a timeout. `rounds` is the number of deaths at each of the
    points; with one round, only some of the points are used. After `FAULTS_SECONDS` the scenario ends, even
    if there were fewer deaths.
    """
    is_short = size.rounds == 1
    points, deadly = (_FEW, _FEW_CLIENTS) if is_short else (_POINTS, flow_clients.POINTS)
    variables = {
        "FAULTS_POINTS": " ".join(points), "FAULTS_TIMES": str(size.rounds), "FAULTS_EVERY": str(_EVERY),
    }  # fmt: skip
    place = attrs.evolve(place, variables={**place.variables, **variables})
    most = 120 * (1 + size.rounds)  # seconds
    enough = float(os.environ.get("FAULTS_SECONDS", "inf"))
    with stage(place) as on, _clients(place, deadly, size) as dying:
        feed, numbers = Feed(on), count()
        servers = [_server(on) for _ in range(1 if is_short else _SERVERS)]
        on.up(within=120)
        began, killed_at = time.monotonic(), time.monotonic()
        while time.monotonic() - began < enough and (
            _missing(on, points, size.rounds) or not dying.done() or len(feed.batches) * _MEMBERS < size.jobs
        ):
            assert time.monotonic() - began < most, _missing(on, points, size.rounds)
            if dying.done():
                dying.result()
            if on.unfinished() < _AHEAD:
                feed.make(next(numbers))
            feed.decide(feed.chance.randrange(2 * _ORDERS))
            feed.check_counts()
            feed.requeue_failed(with_batch=feed.chance.random() < 0.5)
            if len(feed.batches) * _MEMBERS >= size.jobs:
                time.sleep(_PAUSE)
            if time.monotonic() - killed_at > _APART:
                _kill_one_of(on, servers, feed)
                killed_at = time.monotonic()
        (place.ledger_folder / flow_clients.OVER).touch()
        tried = dying.result()
        took = time.monotonic() - began
        feed.decide(len(feed.undecided))

        def is_over():
            feed.check_counts()
            time.sleep(_PAUSE)
            return feed.requeue_failed(with_batch=False) == 0 and on.unfinished() == 0

        try:
            eventually(is_over, 600, "all jobs have ended")
        except AssertionError as error:
            raise AssertionError(f"{error}; unfinished: {_left(on.fire.storage)}") from error
        for server in servers:
            assert server.stop(120) == 0
        eventually(lambda: not left_over(place), place.within(20), "no process that a server started is left")
        lines = _judged(on, feed)
    return [*lines, f"clients tried {dict(tried)}", f"the kills took {took:.0f} s"]


def _left(storage):
    """Return some of the jobs that have not ended, with their histories, memos and children."""
    found = [
        record
        for state in set(State) - FINAL_STATES
        for record in storage.find(JobFilter(state=state), limit=5).jobs
    ]
    return [
        (
            record,
            storage.history(record.id).entries,
            storage.recall(record.id),
            storage.find(JobFilter(parent_id=record.id), limit=5).jobs,
        )
        for record in found
    ]


_SERVER = {"app": "flows", "workers": _WORKERS, "processes": _PROCESSES}


@contextmanager
def _clients(place, points, size):
    """Yield the future of clients that die in the block; no further client starts after it."""
    with ThreadPoolExecutor(1) as threads:
        try:
            yield threads.submit(run_program, place, "flow_clients", points, size.rounds)
        finally:
            (place.ledger_folder / flow_clients.OVER).touch()


def _server(on):
    return on.server(**_SERVER)


def _kill_one_of(on, servers, feed):
    place = feed.chance.randrange(len(servers))
    victim = servers[place]
    note_killed(on.place.ledger_folder, (victim.pid, *victim.family()))
    kill_whole(on, victim)
    servers[place] = on.replace(victim, **_SERVER)


def _died(on):
    """Return the number of processes that killed themselves at each point."""
    return Counter(point for _, point, _ in deaths(on.place.ledger_folder))


def _missing(on, points, times):
    died = _died(on)
    return {point: died[point] for point in points if died[point] < times}


# ---- evaluation ------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Judge:
    """A comparison of the ledger with the stored data."""

    on: object
    feed: Feed
    events: list
    _ends: dict = attrs.Factory(lambda: defaultdict(list))  # the times of a process's deaths, by its id

    def __attrs_post_init__(self):
        """Collect the deaths."""
        for event in self.events:
            if event.what == "kill":
                for pid in event.note.split(","):
                    self._ends[int(pid)].append(event.at)
        for pid, _, at in deaths(self.on.place.ledger_folder):
            self._ends[pid].append(at)

    def of(self, what):
        """Return the events of a kind."""
        return [event for event in self.events if event.what == what]

    def died_after(self, event, until=float("inf")):
        """Return whether the event's process died after the event and before a time."""
        return self._end_of(event) <= until

    def _end_of(self, event):
        """Return when the event's process died, or its parent process if a job process wrote the event."""
        ends = [*self._ends[event.pid], *self._ends[event.parent]]
        return min((at for at in ends if at >= event.at - _DYING), default=float("inf"))

    # ---- batches and callbacks ---------------------------------------------------------------------------

    def callbacks(self):
        """Return the callbacks that ran, by batch and kind."""
        calls = defaultdict(list)
        for event in self.of("callback"):
            calls[event.note].append(event)
        return calls

    def wanted(self):
        """Return the callbacks that must have run, by batch and kind."""
        names = {f"{label} {kind}" for label in self.feed.batches for kind in ("finished", "succeeded")}
        names |= {f"{event.job} deleted" for event in self.of("cancelled")}
        filling = [event.job for event in self.of("filling")]
        return names | {f"{one.id} finished" for one in stored(self.on.fire.storage, filling) if one}

    def repeated_runs(self, calls):
        """Yield runs of callbacks after a run whose process did not die."""
        for events in calls.values():
            yield from (after for before, after in pairwise(events) if not self.died_after(before, after.at))

    def enqueued_again(self, calls):
        """Yield callbacks that the end of their batch enqueued more than once."""
        for events in calls.values():
            entries = self.on.fire.storage.history(events[0].job).entries
            matching = [
                one for one in entries if one.state is State.ENQUEUED and "parent" in (one.reason or "")
            ]
            if len(matching) != 1:
                yield events[0]

    def early(self, calls):
        """Yield callbacks that ran during a member's run, or before such a run if all members had to succeed.

        A member that was requeued after the end of its batch may run before the callback of that end.
        """
        runs = defaultdict(list)
        ended = {(event.job, event.pid, event.fence): event.at for event in self.of("end")}
        for event in self.of("start"):
            until = ended.get((event.job, event.pid, event.fence), self._end_of(event))
            runs[event.note].append((event.attempt, event.at, until))
        for name, events in calls.items():
            label, kind = name.split(" ")
            at = events[0].at
            for attempt, since, until in runs[label]:
                is_meant = kind != "finished" or attempt == 1
                if is_meant and (since <= at < until or (kind == "succeeded" and since > at)):
                    yield events[0]

    # ---- steps, calls and signals ------------------------------------------------------------------------

    def repeated_steps(self):
        """Return the number of repeated steps, the unexplained repeats, and the number of refused runs.

        A repeat is explained by a death between the function and the memo, in the same process, or by the
        loss of the job, of which the run was notified.
        """
        again, unexplained, refused = 0, [], 0
        by_step = defaultdict(list)
        for event in self.events:
            if event.what in ("effect", "kept", "refused"):
                by_step[event.job, event.note].append(event)
        for events in by_step.values():
            effects = [event for event in events if event.what == "effect"]
            again += len(effects) - 1
            for before, after in pairwise(effects):
                kept = any(one.what == "kept" and one.at <= after.at for one in events)
                lost = any(one.what == "refused" and one.pid == before.pid for one in events)
                refused += lost
                if kept or not (lost or self.died_after(before, after.at)):
                    unexplained.append(after)
        return again, unexplained, refused

    def called_again(self):
        """Return numbers for which several jobs were called, although their order was not requeued."""
        jobs = defaultdict(set)
        for event in self.of("called"):
            jobs[int(event.note)].add(event.job)
        numbers = {number: job_id for job_id, number in self.feed.orders.items()}
        return [
            number
            for number, ids in jobs.items()
            if len(ids) > 1 and numbers[number] not in self.feed.requeued
        ]

    def sent(self):
        """Return all decisions for which the call returned."""
        noted = [(event.job, *map(int, event.note.split(" "))) for event in self.of("sent")]
        return [*self.feed.sent, *(Sent(job, payload, bool(is_first)) for job, payload, is_first in noted)]


def _judged(on, feed):
    storage = on.fire.storage
    judge = Judge(on, feed, on.events())
    snapshots = snapshots_of(storage, [*feed.batches.values(), *feed.inner])
    restless = [snapshot for snapshot in snapshots if not snapshot.is_at_rest]
    states = Counter(str(one.state) for one in stored(storage, feed.batches.values()) if one)
    calls, wanted = judge.callbacks(), judge.wanted()
    twice = [name for name, events in calls.items() if len({event.job for event in events}) > 1]
    orders = {one.id: one for one in stored(storage, feed.orders) if one and one.state is State.SUCCEEDED}
    values = {id: json.loads(one.result) for id, one in orders.items()}
    waiters = [event.job for event in judge.of("sent")]
    others = [one for one in stored(storage, dict.fromkeys((*feed.racers, *waiters))) if one]
    counted = [one.id for one in (*orders.values(), *others) if one.attempt > 1 + feed.requeued[one.id]]
    got = {id: value[1] for id, value in values.items()}
    got |= {one.id: json.loads(one.result) for one in others if one.state is State.SUCCEEDED}
    mistaken = [id for id, number in feed.orders.items() if values.get(id, [None])[0] != number]
    sent = judge.sent()
    lost = [one for one in sent if one.is_first and got.get(one.job) != one.payload]
    invented = [one for one in sent if not one.is_first and got.get(one.job) == one.payload]
    again, unexplained, refused = judge.repeated_steps()
    early, repeated = list(judge.early(calls)), list(judge.repeated_runs(calls))
    enqueued_again, called_again = list(judge.enqueued_again(calls)), judge.called_again()
    filled, longest = _filled(storage, judge)
    swept = [one for one in stored(storage, [event.job for event in judge.of("cancelled")]) if one]
    kept = [*feed.batches.values(), *feed.orders, *(events[0].job for events in calls.values())]
    illegal = [id for id in kept if not is_legal(on.fire, id)]
    raced = Counter(got.get(id, "stuck") is None for id in feed.racers)
    at_points = _died(on)
    ends = Counter(str(one.state) for one in swept)
    lines = [
        f"batches {len(feed.batches)}: {dict(states)}, not at rest or miscounted {len(restless)}",
        f"callbacks {len(calls)}: missing {len(wanted - calls.keys())}, enqueued as two jobs {len(twice)}",
        f"callbacks enqueued again {len(enqueued_again)}, early {len(early)}, rerun {len(repeated)}",
        f"stepped jobs {len(feed.orders)}: ended well {len(orders)}, wrong results {len(mistaken)}",
        f"steps repeated {again} (runs refused {refused}), unexplained {len(unexplained)}",
        f"jobs called again {len(called_again)}, crashes or suspensions counted as attempts {len(counted)}",
        f"signals {len(sent)}, first {sum(one.is_first for one in sent)}, lost {len(lost)}",
        f"refused signals that were used {len(invented)}",
        f"races {len(feed.racers)}, timeouts {raced[True]}",
        f"snapshots {feed.snapshots['all']} ({feed.snapshots['moving']} moving), wrong {len(feed.wrong)}",
        f"batches whose client died {dict(filled)}, ended after at most {longest:.1f} s",
        f"batches that were partly swept {dict(ends)}",
        f"requeued {len(feed.requeued)}, illegal histories {len(illegal)}",
        f"servers killed {len(judge.of('kill'))}, deaths at points {sum(at_points.values())}",
        str(dict(sorted(at_points.items()))),
    ]
    assert set(states) == {"succeeded"}, lines
    assert states.total() == len(feed.batches), lines
    assert not restless, (restless, lines)
    assert calls.keys() == wanted, (wanted ^ calls.keys(), lines)
    assert not twice, (twice, lines)
    assert not enqueued_again, (enqueued_again, lines)
    assert not early, (early, lines)
    assert not repeated, (repeated, lines)
    assert len(orders) == len(feed.orders), lines
    assert not mistaken, (mistaken, lines)
    assert not unexplained, (unexplained, lines)
    assert not called_again, (called_again, lines)
    assert not counted, (counted, lines)
    assert not lost, (lost, lines)
    assert not invented, (invented, lines)
    assert raced[True] + raced[False] == len(feed.racers), lines
    assert "stuck" not in {got.get(id, "stuck") for id in (*feed.racers, *waiters)}, lines
    assert not feed.wrong, (feed.wrong[:5], lines)
    assert {one.state for one in swept} <= {State.DELETED}, lines
    assert not filled["wrong"], lines
    assert not illegal, (illegal, lines)
    return lines


def _filled(storage, judge):
    """Count the batches whose fillers died, by their ends; an incomplete batch can only be cancelled.

    Also return the longest time from the creation of such a batch to its end, in seconds.
    """
    filled = {event.job for event in judge.of("filled")}
    ids = [event.job for event in judge.of("filling")]
    found, longest = Counter(), 0.0
    for id, record in zip(ids, stored(storage, ids), strict=True):
        members = storage.find(JobFilter(batch_id=id), limit=500).jobs
        if record is None:
            found["wrong" if members else "not stored"] += 1
        elif not all(member.state in FINAL_STATES for member in members):
            found["wrong"] += 1
        elif record.state is State.SUCCEEDED and len(members) == flow_clients.MEMBERS:
            found["succeeded" if id not in filled else "not killed"] += 1
        elif record.state is State.DELETED and id not in filled:
            found["cancelled"] += 1
            longest = max(longest, (record.changed_at - record.created_at) / 1e6)
        else:
            found["wrong"] += 1
    return found, longest
