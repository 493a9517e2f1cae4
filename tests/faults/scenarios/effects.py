"""Effects in the database of the jobs, which happen exactly once, whatever is killed."""

from __future__ import annotations

import random
import time
from collections import Counter

from sqlalchemy import text

from tests.faults.effects import TABLE, database, effects
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.scenarios.kills import kill_one, kill_whole

_SPAN = 0.02  # seconds that a job takes before its transaction, and after it


@scenario(
    "complete-within", "F01", full=Size(4_000, 60), short=Size(300, 4),
    schemes=["sqlite", "postgresql", "mysql"],
)  # fmt: skip
def complete_within(place, size):
    """Tasks end in the transaction of their effect. Each effect happens exactly once, although runs repeat.

    There are `jobs` jobs at the start, and more to keep two servers busy. There are `rounds` kills at random
    times, of a worker process or of a whole server in turn.
    """
    chance = random.Random(101)
    with stage(place) as on:
        with database(place.storage).begin() as connection:
            connection.execute(text(TABLE))
        servers = [on.server(processes=2, app="effects"), on.server(processes=2, app="effects")]
        on.enqueue(size.jobs, _SPAN, task="effect")
        for number in range(size.rounds):
            on.up()
            if on.unfinished() < 200:
                on.enqueue(300, _SPAN, task="effect")
            time.sleep(chance.uniform(0.1, 1.0))
            victim = chance.randrange(2)
            if number % 2:
                kill_whole(on, servers[victim])
                servers[victim] = on.replace(servers[victim], processes=2, app="effects")
            else:
                kill_one(on, chance.choice(servers[victim].children()))
        report = on.finish(300)
        found = Counter(effects(place.storage))
        events = on.events()
    committed = {event.job for event in events if event.what == "committed"}
    missing, twice = on.acknowledged - found.keys(), [job for job, times in found.items() if times > 1]
    assert found.keys() == on.acknowledged, (len(missing), len(found))
    assert twice == [], twice[:5]
    runs = Counter(event.job for event in events if event.what == "start")
    last = {event.job: event.fence for event in events if event.what == "start"}
    after = [
        event for event in events if event.what == "committed" and last[event.job] != event.fence
    ]  # no process runs a job again whose end is committed
    assert after == [], after[:5]
    return [
        *report.lines(),
        f"effects {len(found)} of {report.jobs} jobs: missing 0, duplicate 0; runs {sum(runs.values())}",
        f"confirmed commits {len(committed)}, runs after a confirmed commit 0",
    ]
