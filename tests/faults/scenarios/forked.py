"""F52: forks of a process that uses Firelock."""

from __future__ import annotations

from firelock import Firelock
from firelock.model.state import State
from tests.faults.checker import stored
from tests.faults.ledger import read_ledger
from tests.faults.program import run_program
from tests.faults.scenarios.base import Size, scenario


@scenario("forks", "F52", full=Size(20, 100), short=Size(5, 4))
def forks(place, size):
    """A process forks in two ways while its threads enqueue and a server runs. Each fork works.

    There are `rounds` forks by os.fork and multiprocessing, each of which stores three times `jobs` jobs,
    awaits, locks and waits for the results.
    """
    codes = run_program(place, "forking_server", size.rounds, size.jobs)
    assert codes == [0] * size.rounds, codes
    events = read_ledger(place.folder / "forking_server")
    inherited = [event.note for event in events if event.what == "inherited" and event.note != "[]"]
    assert inherited == [], inherited[0]
    ids = [event.job for event in events if event.what == "acknowledged"]
    with Firelock(place.storage) as fire:
        records = stored(fire.storage, ids)
        counts = fire.jobs.counts()
    assert all(record and record.state is State.SUCCEEDED for record in records)
    assert (counts.total, counts.succeeded) == (len(ids), len(ids)), counts
    return [f"forks {len(codes)}, hung 0; inherited connections 0; jobs {len(ids)}, lost 0, stuck 0"]
