"""How the demo looks: live on a terminal, line by line in a pipe, nothing but the answer in JSON."""

from __future__ import annotations

import io
import re

import attrs
import pytest

from firelock.cli.demo_story import Act, Event, Scene
from firelock.cli.demo_view import LiveView, PlainView, show_summary, view_for
from firelock.cli.screen import Screen
from firelock.values import JobRecord, Progress, State


class Terminal(io.StringIO):
    """Standard output that a person looks at."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 100 columns and 30 lines."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    return Terminal()


def record(number, state=State.PROCESSING, **more):
    """A job of the shop."""
    return JobRecord(f"job-{number}", "shop.build_report", "{}", "json", state, "default", 0, 0, **more)


def scene(**more):
    """A scene in the middle of ten seconds where nothing runs and nothing has happened."""
    return attrs.evolve(Scene(5.0, 10.0, {}, [], [], False), **more)


def drawn(terminal, *scenes):
    """Return the lines of the last drawing of a live view, without colours."""
    view = LiveView(Screen(out=terminal))
    with view.open():
        for one in scenes:
            terminal.seek(0)
            terminal.truncate()
            view.show(one)
        text = terminal.getvalue()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "").splitlines()


def event(number, *, word="succeeded", text="done"):
    return Event(float(number), word, f"shop.task_{number}", text)


# ---- which view ------------------------------------------------------------------------------------------


def test_a_terminal_gets_the_live_view(terminal):
    """A person looks at a table that is drawn anew."""
    assert LiveView is type(view_for(Screen(out=terminal)))


def test_a_pipe_gets_a_line_for_each_event():
    """Each line has second, state, task and text; a scene without events writes nothing."""
    out = io.StringIO()
    view = view_for(Screen(out=out))

    with view.open():
        view.show(scene(events=[event(1), event(2, word="failed", text="no price")]))
        view.show(scene())

    assert PlainView is type(view)
    assert [
        "    1.0 s  succeeded  task_1            done",
        "    2.0 s  failed     task_2            no price",
    ] == out.getvalue().splitlines()


def test_json_is_not_disturbed(terminal):
    """Where the answer is JSON no scene is shown, on a terminal neither."""
    view = view_for(Screen(is_json=True, out=terminal))

    with view.open():
        view.show(scene(events=[event(1)]))

    assert "" == terminal.getvalue()


# ---- live ------------------------------------------------------------------------------------------------


def test_the_head_counts_the_states_and_the_time(terminal):
    """Every state but `deleted` is counted, also those without a job, and half a bar is half the time."""
    lines = drawn(terminal, scene(by_state={State.ENQUEUED: 12, State.FAILED: 1, State.DELETED: 7}))

    assert "  12 enqueued   0 processing   0 scheduled   0 awaiting   0 succeeded   1 failed" == lines[1]
    assert f"   {'━' * 29}{'─' * 29}  5.0 of 10 s" == lines[3]


def test_time_that_runs_over_does_not_overflow(terminal):
    """A demo that waits for its last jobs shows a full bar and its length."""
    lines = drawn(terminal, scene(seconds=12.5))

    assert f"   {'━' * 58}  10.0 of 10 s" == lines[3]


def test_running_jobs_show_how_far_they_are(terminal):
    """A bar and the message where there is progress, else the attempt; a total of nothing is no progress."""
    running = [
        (record(1), Progress(6.0, 8.0, 0, "page 6")),
        (record(2), Progress(1.0, 0.0, 0)),
        (record(3, attempt=2), None),
    ]

    rows = [line.split(maxsplit=3) for line in drawn(terminal, scene(running=running)) if "build_" in line]

    assert [
        ["processing", "build_report", "━" * 18 + "─" * 6, "page 6"],
        ["processing", "build_report", "─" * 24],
        ["processing", "build_report", "·" * 24, "attempt 2"],
    ] == [[part.rstrip() for part in row] for row in rows]


def test_the_table_keeps_its_height(terminal):
    """However many jobs run and however much has happened, the drawing has as many lines."""
    many = [(record(number), None) for number in range(9)]
    quiet, busy = scene(), scene(running=many, events=[event(number) for number in range(40)])

    heights = {len(drawn(terminal, one)) for one in (quiet, busy)}

    assert 1 == len(heights)
    assert 30 > heights.pop()


def test_the_last_events_stay(terminal):
    """Events of former scenes are shown until newer ones take their places."""
    first = scene(events=[event(number) for number in range(3)])
    second = scene(events=[event(number) for number in range(3, 14)])

    lines = drawn(terminal, first, second)

    shown = [line.split()[3] for line in lines if " s  succeeded" in line]
    assert [f"task_{number}" for number in range(2, 14)] == shown


def test_a_low_terminal_shows_fewer_events(terminal, monkeypatch):
    """At least three events are shown, however few lines there are."""
    monkeypatch.setenv("LINES", "16")

    lines = drawn(terminal, scene(events=[event(number) for number in range(9)]))

    assert ["task_6", "task_7", "task_8"] == [line.split()[3] for line in lines if " s  succeeded" in line]


def test_the_last_scene_keeps_no_room(terminal):
    """At the end the bar is full and no empty line waits for what will not come."""
    running = drawn(terminal, scene(events=[event(1)]))

    lines = drawn(terminal, scene(events=[event(1)]), scene(is_last=True, seconds=3.0))

    assert f"   {'━' * 58}  over" == lines[3]
    assert "    1.0 s  succeeded  task_1            done" == lines[-1]
    assert len(running) > len(lines)


def test_what_jobs_say_moves_no_cursor(terminal):
    """Task names, messages and logs are written visibly."""
    hostile = attrs.evolve(record(1), task="shop.\x1b[2J")
    running = [(hostile, Progress(1.0, 2.0, 0, "\x1b]0;title\x07"))]

    text = "\n".join(
        drawn(terminal, scene(running=running, events=[event(1, word="log", text="\x9b1A\u202e")]))
    )

    assert [] == [character for character in text if not character.isprintable() and character != "\n"]
    for shown in ("\\x1b[2J", "\\x1b]0;title\\x07", "\\x9b1A\\u202e"):
        assert shown in text


# ---- the end ---------------------------------------------------------------------------------------------


@attrs.frozen
class Told:
    """A story that is over."""

    acts: list
    jobs: dict

    def jobs_of(self, act):
        return self.jobs[act.kind]


def test_the_summary_tells_the_end_of_every_act():
    """Jobs, runs, retries and ends are summed up act by act; one of which no job was made says so."""
    acts = [Act(kind, "shop.build_report", ()) for kind in ("mixed", "plain", "idle")]
    mixed = [record(1, State.FAILED, attempt=2, retries=1), record(2, State.SUCCEEDED, attempt=3, retries=2)]
    jobs = {"mixed": mixed, "plain": [record(3, State.SUCCEEDED, attempt=1)], "idle": []}
    out = io.StringIO()

    show_summary(Screen(out=out), Told(acts, jobs))

    rows = [line.split(maxsplit=2) for line in out.getvalue().splitlines()[-3:]]
    assert [
        ["mixed", "build_report", "2     5        3  failed, succeeded"],
        ["plain", "build_report", "1     1           succeeded"],
        ["idle", "build_report", "0     0           none ran"],
    ] == rows
