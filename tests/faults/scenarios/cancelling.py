"""F53: coroutines that are cancelled during a call."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import attrs

from firelock import Firelock, Job
from firelock.storage import JobFilter
from firelock.testing.conformance.scene import pages
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.scenarios.network import behind_proxy
from tests.faults.servers import eventually

_AT_ONCE = 50
_MOST_CONNECTIONS = _AT_ONCE + 3  # a thread per waiting call, and the client's own connections
_LONGEST = 0.004  # maximum seconds until a call is cancelled; calls take about a thousandth of this


@attrs.define(eq=False)
class _Callers:
    """Coroutines that request their own jobs, and the results."""

    fire: Firelock
    task: Any
    chance: random.Random
    known: list[tuple[Job[float], float]] = attrs.field(factory=list)  # handles and passed numbers
    begun: Counter[str] = attrs.field(factory=Counter)
    answered: Counter[str] = attrs.field(factory=Counter)
    wrong: list[str] = attrs.field(factory=list)

    async def enqueue(self, number):
        job = await self.task.aenqueue(number)
        self.known.append((job, number))

    async def enqueue_many(self, number):
        jobs = await self.fire.aenqueue_many([self.task.call(number), self.task.call(number)])
        self.known += [(job, number) for job in jobs]

    async def refresh(self, _):
        job, _ = self.chance.choice(self.known)
        fresh = await job.arefresh()
        self.expect(fresh.id == job.id, f"{job.id} was refreshed to {fresh.id}")

    async def result(self, _):
        job, given = self.chance.choice(self.known)
        result = await job.aresult(timeout=20)
        self.expect(result == given, f"{job.id} of {given} has the result {result}")

    async def get(self, _):
        job, _ = self.chance.choice(self.known)
        found = await self.fire.jobs.aget(job.id)
        self.expect(found.id == job.id, f"requested {job.id}, got {found.id}")

    def expect(self, is_right, what):
        if not is_right:
            self.wrong.append(what)

    async def play(self, rounds):
        """Make this number of concurrent calls, each cancelled after a short time unless it has ended."""
        calls = [self.enqueue, self.enqueue_many, self.refresh, self.result, self.get]
        await self.enqueue(0.0)
        for first in range(0, rounds, _AT_ONCE):
            chosen = [self.chance.choice(calls) for _ in range(_AT_ONCE)]
            await asyncio.gather(
                *[
                    self._cancelled(call.__name__, call(float(first + place)))
                    for place, call in enumerate(chosen)
                ]
            )

    async def _cancelled(self, name, call):
        self.begun[name] += 1
        task = asyncio.create_task(call)
        done, _ = await asyncio.wait([task], timeout=self.chance.uniform(0.0, _LONGEST))
        if not done:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task
            self.answered[name] += 1


@scenario("cancellations", "F53", full=Size(0, 100_000), short=Size(0, 3_000), schemes=["redis"])
def cancellations(place, size):
    """Coroutines are cancelled during calls. None gets another's result, and no connection is left open.

    There are `rounds` calls, fifty of them concurrently.
    """
    with stage(place) as on, behind_proxy(place) as (proxy, far):
        on.serve()
        with Firelock(far.storage) as fire:

            @fire.task(name="echo", remote=True)
            def echo(seconds: float) -> float: ...

            callers = _Callers(fire, echo, random.Random(53))
            began = time.monotonic()
            asyncio.run(callers.play(size.rounds))
            took = time.monotonic() - began
            on.acknowledged.update(job.id for job, _ in callers.known)
            report = on.finish(repeats="none")
            most = proxy.connections
            stored = sum(on.fire.jobs.counts().by_state.values())
            wrong = _wrong_results(on)
        eventually(lambda: proxy.connections == 0, 10, "every connection is closed")
    begun, answered = sum(callers.begun.values()), sum(callers.answered.values())
    assert callers.wrong == [], callers.wrong[:3]
    assert wrong == [], wrong[:3]
    assert begun > answered > 0, (begun, answered)
    assert most <= _MOST_CONNECTIONS, most
    return [
        *report.lines(),
        f"calls {begun} in {took:.0f} s, {begun - answered} of them cancelled; results of other calls 0",
        f"jobs stored {stored}, {stored - report.jobs} of them by cancelled calls; wrong results 0",
        f"connections at the end {most}, after close 0",
    ]


def _wrong_results(on):
    """Return the jobs, including jobs of cancelled calls, whose result differs from their argument."""
    walked = pages(on.fire.storage, JobFilter(task="echo"), 500)
    records = on.records(job.id for page in walked for job in page)
    return [one.id for one in records if one.arguments != f'{{"seconds":{one.result}}}']
