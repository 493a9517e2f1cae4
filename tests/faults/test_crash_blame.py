"""A job that kills its server's process is blamed and ends, and programs that it has started end too."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import closing

import pytest

from firelock import Firelock, State
from firelock.model.state import FINAL_STATES
from firelock.storage import ClaimRequest, HeldClaim, Moved, NewSession
from tests.faults.meters import arranging
from tests.faults.scenarios.base import stage
from tests.faults.servers import Place, eventually, is_running, kill

LONG = 60.0  # seconds until a condition counts as never met
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
kills = pytest.mark.heavy("kills processes of real servers")


@pytest.fixture
def on(tmp_path):
    """Yield a stage on SQLite."""
    with stage(Place(tmp_path, f"sqlite:///{tmp_path}/jobs.db"), session_timeout=30, grace=1) as on:
        yield on


def starts(on, job_id):
    """Return how often the job has started."""
    return Counter(event.job for event in on.events() if event.what == "start")[job_id]


# ---- crashes ---------------------------------------------------------------------------------------------


def kill_child(server):
    """Kill the process of the server that holds the session."""
    (child,) = server.children()
    kill(child)


@kills
@pytest.mark.parametrize(
    ("task", "death"),
    [("held", kill_child), ("pheld", kill_child), ("kill-parent", lambda server: None)],
    ids=["thread", "process", "process-that-kills"],
)
def test_job_that_runs_when_its_worker_process_dies_has_a_crash(on, task, death):
    """The crash is counted and is in the history, whether the job ran in a thread or in a job process."""
    with arranging():
        (server,) = on.serve(workers=2, app="blamed")
        (job_id,) = on.enqueue(1, 0.05, task=task)
        on.await_starts([job_id], within=LONG)
        death(server)
        on.await_starts([job_id], times=2, within=LONG)

    job = on.fire.jobs.get(job_id)
    assert job.record().crashes >= 1
    assert len(job.history()) >= 2


@kills
def test_job_that_always_kills_the_worker_process_fails(on):
    """After two crashes, the job runs alone in a job process. The third crash is its last."""
    with arranging():
        on.serve(workers=2, app="blamed")
        (job_id,) = on.enqueue(1, 0.0, task="kill-anywhere")
        eventually(
            lambda: on.record(job_id).is_final or starts(on, job_id) > 3, LONG, "four starts or an end"
        )

    assert on.record(job_id).state is State.FAILED


def test_job_that_always_kills_the_whole_server_fails():
    """A container's memory limit can end all of its processes together, each time that the job runs."""
    with closing(Firelock("memory://")) as fire:
        job, storage = fire.task(name="hog")(lambda: None).enqueue(), fire.storage
        for number in range(10):
            session = NewSession(f"s{number}", "server", "host:1", "host", 1, storage.clock(), 30.0)
            storage.begin_session(session)
            (claimed,) = storage.claim(ClaimRequest(None, 1, session.id, storage.clock())).jobs
            storage.reconcile(session.id, [HeldClaim(claimed.id, claimed.fence, started_at=storage.clock())])
            storage.end_session(session.id, None, reason=Moved.SESSION_LOST)

        with fire.server(workers=1):
            eventually(lambda: job.refresh().state in FINAL_STATES, LONG, "an end")

        assert job.state is State.FAILED
        assert "losses: 10, max_host_losses: 10" in job.record().reason


# ---- programs started by jobs ----------------------------------------------------------------------------


@pytest.fixture
def program_of(on):
    """Yield a function that runs a job of a task and returns its id and the process that it has started."""
    pids = []

    def run(task):
        (job_id,) = on.enqueue(1, 0.05, task=task)
        found = []

        def started():
            found[:] = [int(event.note) for event in on.events() if event.what == "program"]
            return found

        eventually(started, LONG, "the program has started")
        pids.extend(found)
        return job_id, found[0]

    yield run
    for pid in pids:
        kill(pid)


def has_ended(pid):
    """Wait for the end of the process."""
    eventually(lambda: not is_running(pid), 5, "the program has ended")
    return True


@kills
@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
def test_program_of_a_running_job_ends_with_its_server(on, program_of, is_killed):
    """The documentation promises this for jobs with executor="process"."""
    with arranging():
        (server,) = on.serve(workers=2, app="blamed")
        _, program = program_of("program-and-hold")
        if is_killed:
            kill(server.pid)
        else:
            server.stop(LONG)

    assert has_ended(program)


@kills
@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
def test_program_left_by_an_ended_job_ends_with_its_server(on, program_of, is_killed):
    """The job has ended, and then the server is killed or stopped with SIGTERM."""
    with arranging():
        (server,) = on.serve(workers=2, app="blamed")
        job_id, program = program_of("program-and-end")
        eventually(lambda: on.record(job_id).is_final, LONG, "the job has ended")
        if is_killed:
            kill(server.pid)
        else:
            server.stop(LONG)

    assert has_ended(program)
