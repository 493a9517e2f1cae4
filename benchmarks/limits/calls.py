"""Measure enqueueing calls: in bulk with and without limits, and with and without unique keys."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks import places
from benchmarks.limits import tasks
from benchmarks.pairs import Row, ratio
from benchmarks.plan import Plan
from firelock import Firelock

BULK, SINGLES = 5_000, 100
CLIENTS, DOCUMENTS, CALLS = 16, 20, 25


def rate_of(action: Callable[[], object], number: int) -> float:
    """Return the rate per second."""
    begun = time.perf_counter()
    action()
    return number / (time.perf_counter() - begun)


def in_bulk(plan: Plan) -> Iterator[Row]:
    """Yield the rates of `enqueue_many` with and without limits."""
    number = plan.scaled(BULK)
    kinds = {"keyless": 1, "never": 1, "keys": tasks.KEYS, "many keys": 10_000, "turns": tasks.KEYS}
    rates: dict[str, list[float]] = defaultdict(list)
    with places.opened(plan.storage, plan.folder / "bulk") as place, places.client(place.url) as fire:
        declared = tasks.declare(fire)
        for turn in range(plan.pairs + 1):
            for kind in list(kinds)[:: 1 if turn % 2 else -1]:
                name = "keys" if kind == "many keys" else kind
                arguments = tasks.calls(name, number, keys=kinds[kind])
                call: Any = declared[name].enqueue_many
                speed = rate_of(lambda call=call, arguments=arguments: call(arguments), number)  # type: ignore[misc]
                if turn:  # the first warms up
                    rates[kind].append(speed)
    for kind, keys in kinds.items():
        if kind != "keyless":
            what = f"bulk insert, {'turns' if kind == 'turns' else 'a number'}, {keys:,} keys: jobs/s"
            yield ratio(what, rates[kind], rates["keyless"])


def unique_alone(plan: Plan) -> Iterator[Row]:
    """Yield the cost of a call for a unique job, new or duplicate, and of a plain call, for one client."""
    number = plan.scaled(SINGLES)
    speed: dict[str, list[float]] = defaultdict(list)
    with places.opened(plan.storage, plan.folder / "unique") as place, places.client(place.url) as fire:
        declared, fresh = tasks.declare(fire), iter(range(10**9))
        declared["unique"].enqueue(0, -1)
        kinds: dict[str, Callable[[], object]] = {
            "plain": lambda: [declared["keyless"].enqueue(0) for _ in range(number)],
            "new": lambda: [declared["unique"].enqueue(0, next(fresh)) for _ in range(number)],
            "duplicate": lambda: [declared["unique"].enqueue(0, -1) for _ in range(number)],
        }
        for turn in range(plan.pairs + 1):
            for kind in list(kinds)[:: 1 if turn % 2 else -1]:
                rate = rate_of(kinds[kind], number)
                if turn:
                    speed[kind].append(1e6 / rate)
    for kind in ("new", "duplicate"):
        yield ratio(f"a unique call, {kind}, compared with a plain one: µs", speed[kind], speed["plain"])


def unique_contended(plan: Plan) -> Iterator[Row]:
    """Yield the rates of 16 clients with 20 unique keys and of plain calls, while a server runs the jobs."""
    calls = max(2, int(CALLS * min(1.0, plan.scale)))
    speed: dict[str, list[float]] = defaultdict(list)
    news = 0
    with (
        places.opened(plan.storage, plan.folder / "contended") as place,
        places.client(place.url) as fire,
        tasks.serving(place) as group,
    ):
        places.wait_for_servers(group[0], fire, 1)
        clients = [Firelock(place.url) for _ in range(CLIENTS)]
        declared = [tasks.declare(client) for client in clients]
        done = 0
        for turn in range(plan.pairs + 1):
            for kind in ("keyless", "unique")[:: 1 if turn % 2 else -1]:
                rate, new = _race(declared, kind, calls)
                done += new
                places.wait_for(group[0], fire, done)
                if turn:
                    speed[kind].append(rate)
                    news += new if kind == "unique" else 0
        for client in clients:
            client.close()
    row = ratio(f"{CLIENTS} clients, {DOCUMENTS} unique keys, calls/s", speed["unique"], speed["keyless"])
    yield {**row, "stored": news / (plan.pairs * CLIENTS * calls)}


def _race(declared: Sequence[dict[str, Any]], kind: str, calls: int) -> tuple[float, int]:
    """Return the calls per second of all clients, and the number of new jobs."""
    start = threading.Barrier(len(declared) + 1)
    new: list[int] = []

    def run(task: Any, seed: int) -> None:  # noqa: ANN401 - a task
        start.wait()
        if kind == "keyless":
            new.append(len([task.enqueue(number) for number in range(calls)]))
        else:
            keys = [(seed * 7 + number * 3) % DOCUMENTS for number in range(calls)]
            new.append(sum(task.enqueue(0, key).is_new for key in keys))

    threads = [threading.Thread(target=run, args=(one[kind], seed)) for seed, one in enumerate(declared)]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - begun
    if len(new) != len(declared):
        message = f"{len(declared) - len(new)} of {len(declared)} clients failed"
        raise RuntimeError(message)
    return len(declared) * calls / taken, sum(new)
