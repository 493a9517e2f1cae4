"""`firelock top`: a live view of queues, servers, running jobs and failures in a terminal.

A `Snapshot` is read every few seconds. `sections` converts it to tables, which are the same for a terminal
and for a pipe.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs

from firelock.cli.called import as_called
from firelock.cli.commands import Exit, describe, record_change, seconds_between, user_name
from firelock.cli.json_output import job_json, json_value, server_json
from firelock.cli.screen import STATE_STYLES, Cell, Column, Piece, Screen, width
from firelock.cli.source import connected
from firelock.errors import FirelockError
from firelock.jobs.blocked_by import held_heads
from firelock.model.clock import from_micros
from firelock.model.state import State
from firelock.model.text import age, clock_time, isoformat, shorten, span

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from firelock.app import Firelock
    from firelock.cli.keyboard import Keyboard
    from firelock.control.queues import QueueView
    from firelock.control.servers import ServerView
    from firelock.model.job import JobRecord

_JOBS = 100  # maximum number of running jobs, and of failures, that are read
_WAITS = 20  # maximum number of queues whose oldest job is read
_MINUTE = timedelta(minutes=1)
_AWAITED = " (other jobs, signals, batches)"
_NOTE = 200
_QUEUES, _SERVERS, _RUNNING, _FAILURES = "Queues", "Servers", "Running", "Failures"
_FRAME = 2  # number of lines of a section besides its rows: the titles and an empty line
_LEAST = 2  # minimum number of rows shown in a section, unless it has fewer
_STYLES = {"running": "green", "quiet": "yellow", "stopping": "yellow", "overdue": "bold red"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to the parser."""
    describe(
        parser, _watch,
        more=(
            "Keys: Tab changes the list, arrows or j and k select a row, p pauses or resumes the selected\n"
            "queue, r requeues the selected failed job, space refreshes, q quits. In a pipe, with --once or\n"
            "with --json, the command prints one snapshot."
        ),
        examples=("firelock top", "firelock top --every 5 --read-only", "firelock top --json"),
    )  # fmt: skip
    pause = seconds_between(0.5, 3_600.0)
    parser.add_argument(
        "--every", type=pause, default=2.0, metavar="SECONDS", help="refresh interval (default: 2)"
    )
    parser.add_argument("--once", action="store_true", help="print one snapshot")
    parser.add_argument("--read-only", action="store_true", help="disable the keys p and r")


def _watch(options: argparse.Namespace, screen: Screen) -> int:
    with connected(options) as app:
        if screen.is_json:
            screen.json(_json(read_snapshot(app)))
        elif options.once or not screen.is_terminal:
            _show(read_snapshot(app), screen)
        else:
            from firelock.cli.keyboard import Keyboard  # noqa: PLC0415 - loaded for terminals only

            Top(app, screen, Keyboard(), options.every, is_read_only=options.read_only).run()
    return Exit.DONE


# ---- snapshot --------------------------------------------------------------------------------------------


@attrs.frozen
class Snapshot:
    """The state of a storage at one point in time."""

    now: int  # the storage's time; all times are in microseconds
    states: Mapping[State, int]
    ended: Mapping[str, int]  # jobs that ended in the last full minute, by outcome
    queues: Sequence[QueueView]
    waits: Mapping[str, int]  # when the oldest enqueued job of each queue began to wait
    held: Mapping[str, int]  # number of jobs at the head of each queue that are delayed by limits, up to 100
    servers: Sequence[ServerView]  # servers, except lost and ended ones
    running: Sequence[JobRecord]  # running jobs, longest-running first
    failed: Sequence[JobRecord]  # failed jobs, newest first


def read_snapshot(app: Firelock) -> Snapshot:
    """Return the current state of the app's storage.

    This function needs seven round trips, and one more for each of up to twenty queues with jobs. If limits
    delay the oldest job of a queue, `held_heads` needs more round trips.
    """
    now = app.client.clock.now()
    queues = app.queues.list()
    waiting = sorted((one for one in queues if one.enqueued), key=lambda one: -one.enqueued)[:_WAITS]
    oldest = {
        one.name: app.jobs.find(queue=one.name, state=State.ENQUEUED, oldest_first=True, limit=1)
        for one in waiting
    }
    minute = from_micros(now).replace(second=0, microsecond=0)
    ended: dict[str, int] = {}
    for rollup in app.jobs.timeline(minute - _MINUTE, minute):
        ended[rollup.outcome] = ended.get(rollup.outcome, 0) + rollup.count
    running = app.jobs.find(state=State.PROCESSING, oldest_first=True, limit=_JOBS)
    failed = app.jobs.find(state=State.FAILED, limit=_JOBS)
    heads = {name: job.record() for name, page in oldest.items() for job in page}
    held = held_heads(app.storage, heads.values(), now)
    return Snapshot(
        now, dict(app.jobs.counts()), ended, queues,
        {name: head.changed_at for name, head in heads.items()},
        {name: head.count for name, head in held.items()},
        [server for server in app.servers.list() if not server.state_at(now).is_gone],
        [job.record() for job in running], [job.record() for job in failed],
    )  # fmt: skip


def _json(seen: Snapshot) -> dict[str, object]:
    return {
        "at": isoformat(seen.now),
        "states": {str(state): count for state, count in seen.states.items()},
        "ended_in_the_last_minute": dict(seen.ended),
        "queues": [
            {
                **_fields(queue),
                "oldest_at": isoformat(seen.waits.get(queue.name)),
                "held_by_limits": seen.held.get(queue.name, 0),
            }
            for queue in seen.queues
        ],
        "servers": [server_json(server, seen.now) for server in seen.servers],
        "running": [job_json(job) for job in seen.running],
        "failed": [job_json(job) for job in seen.failed],
    }


def _fields(queue: QueueView) -> dict[str, object]:
    answer = json_value(queue)
    assert isinstance(answer, dict)  # noqa: S101 - an attrs value always is
    return answer


# ---- tables ----------------------------------------------------------------------------------------------


@attrs.frozen
class Section:
    """A table on the screen; each row has a key that identifies it in later snapshots."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Piece]]
    keys: Sequence[str]
    empty: str  # text that is shown if there are no rows


def sections(seen: Snapshot) -> list[Section]:
    """Return the snapshot as four tables."""
    return [_queues(seen), _servers(seen), _running(seen), _failures(seen)]


def _queues(seen: Snapshot) -> Section:
    columns = (
        Column("QUEUE", is_whole=True), Column("ENQUEUED", is_number=True), Column("OLDEST", is_whole=True),
        Column("PROCESSING", is_number=True), Column("SCHEDULED", is_number=True),
        Column("STATE", is_whole=True), Column("NOTE"),
    )  # fmt: skip
    rows: list[Sequence[Piece]] = [
        [
            queue.name, queue.enqueued, _waited(seen.waits.get(queue.name), seen.now), queue.processing,
            queue.scheduled, Cell("paused", "bold yellow") if queue.is_paused else Cell("open", "green"),
            _note(queue, seen.held.get(queue.name, 0)),
        ]
        for queue in seen.queues
    ]  # fmt: skip
    return Section(_QUEUES, columns, rows, [queue.name for queue in seen.queues], "No queues exist yet.")


def _note(queue: QueueView, held: int) -> str:
    notes = (f"first {held} held by limits" if held else "", _pause_note(queue))
    return "; ".join(note for note in notes if note)


def _pause_note(queue: QueueView) -> str:
    if not queue.is_paused:
        return ""
    return " ".join(part for part in (queue.note, f"by {queue.paused_by}" if queue.paused_by else "") if part)


def _waited(since: int | None, now: int) -> str:
    return "" if since is None else span(max(0, now - since))


def _servers(seen: Snapshot) -> Section:
    columns = (
        Column("SERVER", is_whole=True), Column("STATE", is_whole=True), Column("BUSY", is_number=True),
        Column("WORKERS", is_number=True), Column("PROCESSES", is_number=True), Column("QUEUES"),
        Column("STARTED", is_whole=True),
    )  # fmt: skip
    rows: list[Sequence[Piece]] = []
    for server in seen.servers:
        state = str(server.state_at(seen.now))
        started = min(session.session.started_at for session in server.sessions)
        rows.append([
            server.name, Cell(state, _STYLES.get(state, "")), server.busy, server.workers,
            len(server.living(seen.now)), server.queues, age(started, seen.now),
        ])  # fmt: skip
    empty = as_called("No servers are running; start one: firelock server app:fire")
    return Section(_SERVERS, columns, rows, [server.id for server in seen.servers], empty)


def _running(seen: Snapshot) -> Section:
    columns = (
        Column("JOB", is_whole=True), Column("TASK"), Column("QUEUE"), Column("SERVER"),
        Column("ATTEMPT", is_number=True), Column("FOR", is_whole=True),
    )  # fmt: skip
    rows: list[Sequence[Piece]] = [
        [
            job.id, job.task, job.queue, job.server or "", job.attempt,
            _waited(job.started_at, seen.now) or "claimed",
        ]
        for job in seen.running
    ]  # fmt: skip
    return Section(_RUNNING, columns, rows, [job.id for job in seen.running], "No jobs are running.")


def _failures(seen: Snapshot) -> Section:
    columns = (
        Column("JOB", is_whole=True), Column("TASK"), Column("QUEUE"), Column("FAILED", is_whole=True),
        Column("ATTEMPTS", is_number=True), Column("ERROR"),
    )  # fmt: skip
    rows: list[Sequence[Piece]] = [
        [
            job.id, _task(job), job.queue, age(job.changed_at, seen.now), job.attempt,
            Cell(shorten(_error(job), _NOTE), "red"),
        ]
        for job in seen.failed
    ]  # fmt: skip
    return Section(_FAILURES, columns, rows, [job.id for job in seen.failed], "No jobs have failed.")


def _task(job: JobRecord) -> str:
    batch = None if job.relations is None else job.relations.batch
    return job.task if batch is None else f"batch {batch.name}"


def _error(job: JobRecord) -> str:
    if job.error is None:
        return job.reason or ""
    return f"{job.error.type.removeprefix('builtins.')}: {' '.join(job.error.message.split())}"


def summary(seen: Snapshot) -> list[Piece]:
    """Return one line with the number of jobs in each state and the jobs that ended in the last full minute.

    A storage counts jobs only by state, so the line names the kinds of awaiting jobs without their numbers.
    """
    pieces: list[Piece] = []
    for state in (State.ENQUEUED, State.PROCESSING, State.SCHEDULED, State.AWAITING, State.FAILED):
        count = seen.states.get(state, 0)
        kinds = _AWAITED if state is State.AWAITING and count else ""
        number = Cell(f"{count:,}", STATE_STYLES[state] if count else "bright_black")
        pieces += [f"{state} ", number, f"{kinds}   "]
    ended = sum(seen.ended.get(outcome, 0) for outcome in ("succeeded", "failed", "deleted"))
    failed = seen.ended.get("failed", 0)
    pieces += [f"last minute {ended:,} ended, ", Cell(f"{failed:,} failed", "bold red" if failed else "")]
    return pieces


def _show(seen: Snapshot, screen: Screen) -> None:
    screen.line(clock_time(seen.now), "   ", *summary(seen))
    for section in sections(seen):
        screen.heading(section.title)
        if section.rows:
            screen.table(section.columns, section.rows)
        else:
            screen.line(section.empty)


# ---- live ------------------------------------------------------------------------------------------------


@attrs.define
class Choice:
    """The selected row of a list, found by its key, or by its position if the key no longer exists."""

    key: str | None = None
    place: int = 0

    def among(self, keys: Sequence[str]) -> int | None:
        """Update the selection for these rows and return its position; None if there are no rows."""
        if not keys:
            self.key = None
            return None
        self.place = keys.index(self.key) if self.key in keys else min(self.place, len(keys) - 1)
        self.key = keys[self.place]
        return self.place

    def move(self, keys: Sequence[str], places: int) -> None:
        """Move the selection down by this many rows, within the list."""
        place = self.among(keys)
        if place is not None:
            self.key = keys[min(max(0, place + places), len(keys) - 1)]


class Top:
    """The live view: `run` shows it until the user leaves."""

    def __init__(
        self, app: Firelock, screen: Screen, keyboard: Keyboard, every: float, *, is_read_only: bool
    ) -> None:
        self._app = app
        self._screen = screen
        self._keyboard = keyboard
        self._every = every
        self._is_read_only = is_read_only
        self._by = f"{user_name()}, in firelock top"
        self._choices = {_QUEUES: Choice(), _FAILURES: Choice()}
        self._focus = _QUEUES
        self._seen: Snapshot | None = None
        self._message = Cell("")
        self._is_leaving = False
        self._acts: Mapping[str, Callable[[], None]] = {
            "q": self._leave,
            "p": self._pause_or_resume,
            "r": self._requeue,
            "tab": self._change_list,
            **{key: lambda: self._move(-1) for key in ("up", "k")},
            **{key: lambda: self._move(1) for key in ("down", "j")},
        }

    def run(self) -> None:
        """Show the view until the user leaves; the terminal is always restored after that.

        Raises:
            FirelockError: If the first snapshot cannot be read.
        """
        from firelock.cli.keyboard import Leaving, Suspending, suspend  # noqa: PLC0415 - for terminals

        self._seen = read_snapshot(self._app)
        while not self._is_leaving:
            try:
                self._show_until_left()
            except Leaving:
                self._is_leaving = True
            except Suspending:
                suspend()

    def _show_until_left(self) -> None:
        from rich.live import Live  # noqa: PLC0415 - loaded for terminals only

        live = Live(
            console=self._screen.console, screen=True, auto_refresh=False, redirect_stdout=False,
            redirect_stderr=False, vertical_overflow="crop",
        )  # fmt: skip
        with self._keyboard.open(), live:
            due = time.monotonic() + self._every
            while not self._is_leaving:
                live.update(self._picture(), refresh=True)
                keys = self._keyboard.keys(due - time.monotonic())
                for key in keys:
                    self._press(key)
                if time.monotonic() >= due or keys:
                    self._refresh()
                    due = time.monotonic() + self._every

    def _refresh(self) -> None:
        try:
            self._seen = read_snapshot(self._app)
        except FirelockError as error:
            self._message = Cell(f"Cannot read the storage, retrying: {error}", "bold red")
        else:
            if self._message.style == "bold red":
                self._message = Cell("")

    # ---- keys --------------------------------------------------------------------------------------------

    def _press(self, key: str) -> None:
        act = self._acts.get(key)
        if act is None:
            return
        try:
            act()
        except FirelockError as error:
            self._message = Cell(f"The change failed: {error}", "bold red")

    def _leave(self) -> None:
        self._is_leaving = True

    def _change_list(self) -> None:
        self._focus = _FAILURES if self._focus == _QUEUES else _QUEUES

    def _move(self, places: int) -> None:
        self._choices[self._focus].move(self._keys(self._focus), places)

    def _keys(self, title: str) -> Sequence[str]:
        assert self._seen is not None  # noqa: S101 - `run` has read a snapshot
        jobs = [job.id for job in self._seen.failed]
        return jobs if title == _FAILURES else [queue.name for queue in self._seen.queues]

    def _pause_or_resume(self) -> None:
        place = self._choices[_QUEUES].among(self._keys(_QUEUES))
        if self._may_change() and place is not None and self._seen is not None:
            queue = self._seen.queues[place]
            if queue.is_paused:
                self._app.queues.resume(queue.name)
                record_change(self._app, "queue.resume", queue.name)
                self._message = Cell(f"Queue {queue.name} is resumed.", "green")
            else:
                self._app.queues.pause(queue.name, by=self._by)
                record_change(self._app, "queue.pause", queue.name)
                self._message = Cell(f"Queue {queue.name} is paused; p resumes it.", "yellow")

    def _requeue(self) -> None:
        place = self._choices[_FAILURES].among(self._keys(_FAILURES))
        if self._may_change() and place is not None and self._seen is not None:
            job = self._seen.failed[place]
            (applied,) = self._app.jobs.requeue([job.id], reason=f"requeued by {self._by}")
            done = applied.is_applied
            if done:
                record_change(self._app, "jobs.requeue", job.id, count=1)
            result = "is enqueued again" if done else f"was not requeued: {applied}"
            self._message = Cell(f"Job {job.id} of {_task(job)} {result}.", "green" if done else "yellow")

    def _may_change(self) -> bool:
        if self._is_read_only:
            self._message = Cell("Changes are disabled by --read-only.", "yellow")
        return not self._is_read_only

    # ---- rendering ---------------------------------------------------------------------------------------

    def _picture(self) -> RenderableType:
        from rich.console import Group  # noqa: PLC0415 - loaded for terminals only

        assert self._seen is not None  # noqa: S101 - `run` has read a snapshot
        tables = sections(self._seen)
        console = self._screen.console
        room = console.height - 3 - sum(_FRAME + 1 for _ in tables)
        heights = shares([max(1, len(table.rows)) for table in tables], room)
        lines: list[RenderableType] = [
            _line([Cell("firelock top  ", "bold"), f"{self._app.storage.url}  {clock_time(self._seen.now)}"]),
            _line(summary(self._seen)),
        ]
        for section, height in zip(tables, heights, strict=True):
            lines += [_line([""]), self._table(section, height, console.width)]
        lines.append(_line([self._message if self._message.text else Cell(self._help(), "bright_black")]))
        return Group(*lines)

    def _help(self) -> str:
        if self._is_read_only:
            return "Tab list   ↑↓ row   space refresh   q quit"
        return "Tab list   ↑↓ row   p pause or resume queue   r requeue job   space refresh   q quit"

    def _table(self, section: Section, height: int, wide: int) -> Table:
        from rich.table import Table  # noqa: PLC0415 - loaded for terminals only

        choice = self._choices.get(section.title)
        place = None if choice is None else choice.among(section.keys)
        first = max(0, min((place or 0) - height // 2, len(section.rows) - height))
        shown = section.rows[first : first + height]
        hidden = len(section.rows) - len(shown)
        shown_rows = f" ({first + 1}–{first + len(shown)} of {len(section.rows)})" if hidden else ""
        table = Table(
            box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black",
            title=_text(Cell(section.title + shown_rows)), title_justify="left", width=wide,
            title_style="bold underline" if section.title == self._focus else "bold",
        )  # fmt: skip
        if not section.rows:
            table.add_column(_text(Cell(section.empty, "bright_black")))
            return table
        table.add_column(" ", width=1)
        for column in section.columns:
            table.add_column(
                column.title, justify="right" if column.is_number else "left", no_wrap=True,
                overflow="ellipsis", ratio=_ratio(column),
                min_width=width(column.title),
            )  # fmt: skip
        for offset, row in enumerate(shown):
            is_chosen = place == first + offset
            style = "reverse" if is_chosen and section.title == self._focus else ""
            table.add_row(">" if is_chosen else " ", *map(_text, map(_cell, row)), style=style)
        return table


def _ratio(column: Column) -> int | None:
    """Return a column's share of the available space; None if the column has a fixed width."""
    if column.is_whole or column.is_number:
        return None
    return 4 if column.title in {"ERROR", "NOTE"} else 2


def shares(wanted: Sequence[int], room: int) -> list[int]:
    """Return the number of rows of each section: all of them, or an even share of the available space."""
    given = [min(each, _LEAST) for each in wanted]
    for place in _in_turns(len(wanted), max(0, room - sum(given))):
        unfilled = [one for one in range(len(wanted)) if given[one] < wanted[one]]
        if not unfilled:
            break
        given[unfilled[place % len(unfilled)]] += 1
    return given


def _in_turns(places: int, times: int) -> Iterator[int]:
    return (turn % places for turn in range(times))


def _cell(piece: Piece) -> Cell:
    return piece if isinstance(piece, Cell) else Cell(piece)


def _text(cell: Cell) -> Text:
    from rich.text import Text  # noqa: PLC0415 - loaded for terminals only

    return Text(cell.text, cell.style)


def _line(pieces: Sequence[Piece]) -> RenderableType:
    from rich.text import Text  # noqa: PLC0415 - loaded for terminals only

    line = Text(no_wrap=True, overflow="ellipsis")
    for cell in map(_cell, pieces):
        line.append(cell.text, cell.style)
    return line
