"""F52: forks of a process that uses Firelock."""

from __future__ import annotations

import json
import subprocess
import sys

from firelock import Firelock
from firelock.values import State
from tests.faults.ledger import read_ledger
from tests.faults.scenarios.base import Size, scenario
from tests.faults.servers import Place


@scenario("forks", "F52", full=Size(20, 100), short=Size(5, 4))
def forks(place: Place, size: Size) -> list[str]:
    """Forks by hand and by multiprocessing, while threads enqueue and a server runs: each works on its own.

    `rounds` forks, each of which stores three times `jobs` jobs, awaits, locks and waits for the results.
    """
    folder = place.folder / "forks"
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.faults.forks", place.storage,
         str(folder), str(size.rounds), str(size.jobs)],
        env=place.environment(), stdout=subprocess.PIPE, check=True, text=True, timeout=600,
    )  # fmt: skip
    codes = json.loads(done.stdout)
    assert codes == [0] * size.rounds, codes
    events = read_ledger(folder)
    inherited = [event.note for event in events if event.what == "inherited" and event.note != "[]"]
    assert inherited == [], inherited[0]
    ids = [event.job for event in events if event.what == "acknowledged"]
    with Firelock(place.storage) as fire:
        pages = [fire.storage.get(ids[start : start + 500]) for start in range(0, len(ids), 500)]
        counts = fire.jobs.counts()
    records = [record for page in pages for record in page]
    assert all(record is not None and record.state is State.SUCCEEDED for record in records)
    assert (counts.total, counts.succeeded) == (len(ids), len(ids)), counts
    return [f"forks {len(codes)}, hung 0; inherited connections 0; jobs {len(ids)}, lost 0, stuck 0"]
