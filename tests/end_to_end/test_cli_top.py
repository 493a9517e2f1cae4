"""`firelock top`: its view, its keys, and the terminal that it restores."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import pytest

from firelock import Firelock, Limit, StorageUnavailable
from firelock.cli.screen import Screen
from firelock.cli.top import Choice, Top, shares
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.testing import eventually
from tests.core.fakes import FailingStorage
from tests.dashboard import flows
from tests.end_to_end.cli_run import Terminal, begin_session, claim, fail
from tests.end_to_end.terminal import PseudoTerminal, plain

TOP = [sys.executable, "-m", "firelock", "top", "--every", "0.5"]
SHOWN, HIDDEN = "\x1b[?1049h", "\x1b[?1049l"  # the alternate screen of a terminal


def fill(app):
    """Create one waiting job in each of two queues, a failed job and a running one; return the last two."""
    task = app.task(name="shop.notify", remote=True)(_notify)
    failed = task.using(queue="mail").enqueue(1)
    fail(app, message="no route\nto the host")
    running = task.using(queue="mail").enqueue(2)
    claim(app, ClaimHolder("s1", "vm:1"))
    task.using(queue="mail").enqueue(3)
    task.using(queue="bulk").enqueue(4)
    return failed, running


def _notify(user_id: int): ...


@pytest.fixture
def app(request):
    """An app in memory."""
    with Firelock(f"memory://{request.node.originalname}") as app:
        yield app


@pytest.fixture
def shared(tmp_path):
    """An app with a database file that another process can open, and its failed job."""
    with Firelock(f"sqlite:///{tmp_path / 'jobs.db'}") as app:
        failed, _ = fill(app)
        yield app, failed


def terminal(app, folder, *words):
    """Start `firelock top` in a terminal, on the app's storage."""
    return PseudoTerminal([*TOP, "--storage", app.storage.url, *words], folder=folder)


def test_output_to_a_pipe_is_a_single_view(run, app):
    """The output contains the counts on one line, and then the queues, servers, running jobs and failures."""
    failed, running = fill(app)

    ran = run("top --storage", app.storage.url)

    lines = ran.out.splitlines()
    assert 0 == ran.code
    assert "enqueued 2   processing 1   scheduled 0   awaiting 0   failed 1" in lines[0]
    assert ["Queues", "Servers", "Running", "Failures"] == [line for line in lines if line.isalpha()]
    assert ["bulk", "1"] == lines[lines.index("Queues") + 2].split()[:2]
    assert any(line.startswith("vm:1") and " running " in line for line in lines)
    assert any(line.startswith(running.id) and "vm:1" in line for line in lines)
    assert any(
        line.startswith(failed.id) and line.endswith("ValueError: no route to the host") for line in lines
    )
    assert "\x1b" not in ran.out


def test_awaiting_jobs_are_counted_together(run, app):
    """A storage counts jobs by state, so jobs that wait for jobs, signals or batches share one number."""
    failed, _ = fill(app)
    app.jobs.get(failed.id).then(app.task(name="after")(lambda: None))
    with app.batch("import") as batch:
        batch.add(app.task(name="load")(lambda: None))

    ran = run("top --storage", app.storage.url)

    assert "awaiting 2 (other jobs, signals, batches)   failed 1" in ran.out.splitlines()[0]


def test_empty_list_is_replaced_by_a_sentence(run, app):
    """For example, if there are no servers, the sentence explains how to start one."""
    ran = run("top --once --storage", app.storage.url)

    assert "No queues exist yet." in ran.out
    assert "No servers are running; start one: firelock server app:fire" in ran.out
    assert "No jobs are running." in ran.out
    assert "No jobs have failed." in ran.out


def test_json_contains_the_whole_view(run, app):
    """The names are the same as in the code, and times are in ISO 8601."""
    failed, running = fill(app)
    app.queues.pause("bulk", note="later", by="ann")

    seen = run("top --json --storage", app.storage.url).json

    assert {"bulk", "mail"} == {queue["name"] for queue in seen["queues"]}
    assert (True, "later", "ann") == tuple(
        seen["queues"][0][name] for name in ("is_paused", "note", "paused_by")
    )
    assert seen["queues"][0]["oldest_at"].endswith("Z")
    assert 1 == seen["states"]["failed"]
    assert [running.id] == [job["id"] for job in seen["running"]]
    assert [failed.id] == [job["id"] for job in seen["failed"]]
    assert ["vm:1"] == [server["name"] for server in seen["servers"]]
    assert {} == seen["ended_in_the_last_minute"]


def test_queue_shows_how_many_first_jobs_limits_block(run, app):
    """The number is shown next to the note.

    Only the jobs before the first one that no limit blocks are counted. The JSON contains the same number.
    """
    limited = app.task(name="shop.charge", remote=True, limits=[Limit("tenant", concurrent=1)])(_notify)
    limited.using(queue="mail").enqueue(0)
    app.limits.set("tenant", concurrent=1)
    claim(app, begin_session(app))
    limited.using(queue="mail").enqueue_many([(1,), (2,)])
    app.task(name="shop.notify", remote=True)(_notify).using(queue="mail").enqueue(3)
    app.queues.pause("mail", note="later", by="ann")

    ran, seen = run("top --storage", app.storage.url), run("top --json --storage", app.storage.url).json

    (line,) = [line for line in ran.out.splitlines() if line.startswith("mail")]
    assert line.endswith("first 2 held by limits; later by ann")
    assert [2] == [queue["held_by_limits"] for queue in seen["queues"]]


def test_failed_batch_is_shown_with_its_name(run, app):
    """A batch is shown with its name because it has no task."""
    batch = flows.new_batch(app, "import")
    flows.add(app, batch)
    flows.end(app, *flows.claim(app), State.FAILED)

    lines = run("top --storage", app.storage.url).out.splitlines()

    (line,) = [line for line in lines if line.startswith(batch)]
    assert ["batch", "import"] == line.split()[1:3]


def test_state_of_a_queue_has_the_same_name_in_every_command(run, app):
    """A queue is "open" or "paused" in `firelock top` and in `firelock queues list`."""
    fill(app)
    app.queues.pause("bulk")

    top = run("top --storage", app.storage.url).out.splitlines()
    listed = run("queues list --storage", app.storage.url).out.splitlines()

    in_top = [line for line in top if line.startswith(("bulk ", "mail "))]
    for lines in (in_top, listed[1:]):
        assert [(" paused" in line, " open" in line) for line in lines] == [(True, False), (False, True)]


@pytest.mark.parametrize("every", ["0.1", "soon", "1e9", "nan"])
def test_refresh_interval_has_bounds(run, every):
    """The interval must be between half a second and an hour."""
    ran = run(f"top --every {every}")

    assert 2 == ran.code
    assert f"must be a number of seconds from 0.5 to 3600, got {every!r}" in ran.error


def test_keys_pause_a_queue_and_requeue_a_job(shared, tmp_path):
    """The note of the queue and the history of the job contain the user's name."""
    app, failed = shared
    with terminal(app, tmp_path) as screen:
        screen.awaits("Failures")
        screen.press("\x1b[Bp")  # down, from bulk to mail
        screen.awaits("Queue mail is paused; p resumes it.")
        paused = {queue.name: queue.paused_by for queue in app.queues.list() if queue.is_paused}
        screen.press("p")
        screen.awaits("Queue mail is resumed.")
        screen.press("r")
        seen = screen.awaits(f"Job {failed.id} of shop.notify is enqueued again.")
        screen.awaits("No jobs have failed.", since=seen)
        screen.press("q")
        code = screen.ended()

    assert 0 == code
    assert ["mail"] == list(paused)
    assert paused["mail"].endswith(", in firelock top")
    assert not any(queue.is_paused for queue in app.queues.list())
    assert State.ENQUEUED is failed.refresh().state
    assert failed.record().reason.endswith(", in firelock top")


def test_view_is_refreshed_without_a_key_press(shared, tmp_path):
    """After a change of the terminal's size, the view fills the whole terminal again."""
    app, failed = shared
    with terminal(app, tmp_path, "--read-only") as screen:
        seen = screen.awaits("ValueError: no route to the host")
        screen.press("pr")
        seen = screen.awaits("Changes are disabled by --read-only.", since=seen)
        app.jobs.delete([failed.id])
        screen.awaits("No jobs have failed.", since=seen)
        screen.press("q")
        screen.ended()

    assert [] == [queue.name for queue in app.queues.list() if queue.is_paused]


@pytest.mark.parametrize("leave", ["q", "\x03", signal.SIGTERM, signal.SIGHUP])
def test_terminal_is_restored_at_the_end(shared, tmp_path, leave):
    """However the program ends, it closes the alternate screen and restores the cursor and the echo."""
    app, _ = shared
    with terminal(app, tmp_path) as screen:
        screen.awaits("Failures")
        while_open = screen.left_modes()
        if isinstance(leave, str):
            screen.press(leave)
        else:
            screen.process.send_signal(leave)
        code = screen.ended()

    assert 0 == code
    assert screen.modes != while_open
    assert screen.modes == screen.last_modes
    assert screen.raw.count(SHOWN) == screen.raw.count(HIDDEN) == 1
    assert screen.raw.rindex("\x1b[?25l") < screen.raw.rindex("\x1b[?25h")


def test_suspension_restores_the_terminal(shared, tmp_path):
    """Ctrl-Z restores the terminal. After SIGCONT, the view is shown again."""
    app, _ = shared
    with terminal(app, tmp_path) as screen:
        screen.awaits("Failures")
        screen.press("\x1a")
        eventually(lambda: HIDDEN in screen.raw, within=screen.deadline)
        eventually(lambda: is_stopped(screen.process.pid), within=screen.deadline)
        suspended = screen.left_modes()
        screen.process.send_signal(signal.SIGCONT)
        eventually(lambda: screen.raw.count(SHOWN) == 2, within=screen.deadline)
        screen.press("q")
        code = screen.ended()

    assert 0 == code
    assert screen.modes == suspended


def is_stopped(pid):
    """Return whether a signal has stopped the process."""
    return os.waitpid(pid, os.WUNTRACED | os.WNOHANG)[0] == pid


class ScriptedKeys:
    """A keyboard that performs one step each time it is read: it presses keys or calls a function."""

    is_there = True

    def __init__(self, *steps):
        self._steps = iter(steps)

    @contextlib.contextmanager
    def open(self):
        """Yield without setting anything up."""
        yield

    def keys(self, _):
        """Return the keys of the next step, or a space for a function, which reads again immediately."""
        step = next(self._steps, "q")
        if callable(step):
            step()
            return [" "]
        return list(step)


@pytest.fixture
def pictures(monkeypatch):
    """Return a function that returns all pictures of an app's view during these steps."""

    def view(app, *steps, lines=30):
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setenv("LINES", str(lines))
        out = Terminal()
        Top(app, Screen(out=out), ScriptedKeys(*steps), 60.0, is_read_only=False).run()
        return [shown for part in out.getvalue().split("\x1b[H") if "firelock top" in (shown := plain(part))]

    return view


def test_outage_is_shown_until_the_next_reading(pictures):
    """The last values stay visible until a reading succeeds again."""
    storage = FailingStorage()
    with Firelock(storage) as app:
        fill(app)

        shown = pictures(
            app, lambda: storage.fail_always("counts", StorageUnavailable("no answer")), storage.recover
        )

    assert ["no route" in picture for picture in shown] == [True] * 3
    assert [False, True, False] == ["Cannot read the storage, retrying: " in picture for picture in shown]


def test_long_lists_scroll_with_the_selection(pictures, app):
    """The titles of the lists show which part is visible."""
    for number in range(30):
        app.queues.pause(f"q{number:02}")

    shown = pictures(app, ["down"] * 29, lines=24)

    assert "Queues (1–" in shown[0]
    assert "q00" in shown[0]
    assert "of 30)" in shown[-1]
    assert any(line.startswith(">  q29") for line in shown[-1].splitlines())
    assert all(24 >= len(picture.splitlines()) for picture in shown)


@pytest.mark.parametrize(
    ("wanted", "room", "given"),
    [
        ([1, 1, 1, 1], 20, [1, 1, 1, 1]),
        ([50, 1, 1, 50], 20, [9, 1, 1, 9]),
        ([5, 0, 0, 50], 20, [5, 0, 0, 15]),
        ([50, 50, 50, 50], 3, [2, 2, 2, 2]),
    ],
)
def test_lists_share_the_space(wanted, room, given):
    """Each list has at least two rows. Rows that one list does not need are used by the other lists."""
    assert given == shares(wanted, room)


def test_selection_follows_its_row():
    """If rows move, the same row stays selected.

    If this row was removed, the row in its place is selected.
    """
    choice = Choice()

    first = choice.among(["a", "b", "c"])
    choice.move(["a", "b", "c"], 1)
    moved = choice.among(["new", "a", "b", "c"])
    gone = choice.among(["new", "a", "c"])
    choice.move(["new", "a", "c"], 9)
    last = choice.among(["new", "a", "c"])

    assert [0, 2, 2, 2] == [first, moved, gone, last]
    assert (None, None) == (choice.among([]), choice.key)
