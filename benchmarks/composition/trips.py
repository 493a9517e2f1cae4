"""Count the round trips and statements of a member, a step, a suspension and a signal.

`python -m benchmarks.composition.trips STORAGE FOLDER` counts as `benchmarks.limits.statements` does. Jobs
run one after another in this thread, in the same way as in a server's thread.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.claimer import Claimer
from benchmarks.harness import run_to_end
from benchmarks.limits.statements import Counts, metered
from benchmarks.pairs import Row
from benchmarks.plan import Plan
from firelock.context import Console
from firelock.model.session import ClaimHolder
from firelock.server.run import EndedRun, JobRunner

STEPS = 20
ROUNDS = 4


def measure(plan: Plan) -> Iterator[Row]:
    """Yield the counts of each action."""
    command = [sys.executable, "-m", "benchmarks.composition.trips", plan.storage, str(plan.folder / "trips")]
    counts: Counts = json.loads(run_to_end(command, {}).splitlines()[-1])
    for action, cost in counts.items():
        yield {"what": action, **cost}


class Runs(Claimer):
    """A session that also runs its claimed jobs, in this thread."""

    def __init__(self, fire: Any) -> None:  # noqa: ANN401 - an application's
        super().__init__(fire)
        self._console = Console(fire.client.clock.now)
        self._runner = JobRunner(fire.runtime, self._console, in_place=0)

    def run_held(self) -> None:
        """Run the claimed jobs, and settle them."""
        holder = ClaimHolder(self._session, self._server)
        prepared = [self._runner.prepare(job, holder) for job in self.held]
        ended = [run if isinstance(run, EndedRun) else self._runner.run(run) for run in prepared]
        self.held = []
        self.storage.apply([run.transition for run in ended])


def count_here(storage: str, folder: Path) -> Counts:
    """Return the cost of each action: the minimum of three runs, after a first run that fills caches."""
    counts: Counts = {}
    with metered(storage, folder) as (url, meters):
        os.environ["FIRELOCK_STORAGE"] = url
        from benchmarks.composition import (
            application as app,  # it reads the storage's URL when it is imported
        )

        fire = app.fire
        fire.storage.migrate()
        worker = Runs(fire)
        stored: dict[str, Any] = {}

        def fill(name: str, jobs: int) -> None:
            with fire.batch(name) as batch:
                batch.add_many([app.plain.call(number) for number in range(jobs)])

        def hold(name: str) -> Callable[[], None]:
            def enqueue_and_claim() -> None:
                stored[name] = getattr(app, name).enqueue(0)
                worker.claim(1)

            return enqueue_and_claim

        def run_and_release() -> None:
            worker.run_held()
            fire.storage.release(1_000)

        def settle() -> None:
            worker.claim(0)
            while fire.storage.release(1_000):
                pass

        # By action: a preparation that is not counted, and the counted action.
        actions: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "a plain job, run and ended": (hold("plain"), worker.run_held),
            f"a job of {STEPS} steps, run and ended": (hold("steps"), worker.run_held),
            "a job that waits for a signal, run until it is suspended": (hold("waits"), worker.run_held),
            "a signal to a job that waits for it": (lambda: None, lambda: app.word.send(stored["waits"], 1)),
            "a resumed job, run and ended": (lambda: worker.claim(1), worker.run_held),
            "a job that calls another one, run until it is suspended": (hold("calls"), worker.run_held),
            "the called job, run and ended, and its caller released": (
                lambda: worker.claim(1),
                run_and_release,
            ),
            "its caller, run and ended": (lambda: worker.claim(1), worker.run_held),
            "500 plain jobs stored": (lambda: None, lambda: app.plain.enqueue_many([(0,)] * 500)),
            "100 plain jobs ended and 100 claimed": (lambda: worker.claim(100), lambda: worker.claim(100)),
            "all other jobs ended": (lambda: worker.claim(300), settle),
            "a batch of 500 stored": (lambda: None, lambda: fill("500", 500)),
            "100 members ended and 100 claimed": (lambda: worker.claim(100), lambda: worker.claim(100)),
            "all other members and their batch ended": (lambda: worker.claim(300), settle),
        }
        for turn in range(ROUNDS):
            for action, (first, counted) in actions.items():
                first()
                before = meters()
                counted()
                after = meters()
                cost = {name: after[name] - before[name] for name in before}
                if turn:
                    known = counts.get(action, cost)
                    counts[action] = {name: min(cost[name], known[name]) for name in cost}
        fire.close()
    return _with_steps(counts)


def _with_steps(counts: Counts) -> Counts:
    """Add the costs of one step and of one suspension."""
    plain, steps = counts["a plain job, run and ended"], counts[f"a job of {STEPS} steps, run and ended"]
    step = {name: round((steps[name] - plain[name]) / STEPS) for name in plain}
    return {"a step": step, **counts}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(count_here(sys.argv[1], Path(sys.argv[2]))) + "\n")
