"""`firelock demo`: runs the jobs of a small shop for some seconds, or with a dashboard until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from itertools import count, groupby
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from firelock.app import Firelock
from firelock.cli import demo_shop as shop
from firelock.cli.called import as_called, program_of_shell
from firelock.cli.commands import Exit, Problem, describe, seconds_between
from firelock.cli.json_output import job_json
from firelock.cli.screen import STATE_STYLES, Cell, Column, Piece, Screen, visible
from firelock.errors import UnknownScheme
from firelock.model.job import HistoryEntry, JobRecord, LogLine, Progress
from firelock.model.state import State
from firelock.model.text import shorten
from firelock.plugins.loader import Plugins, open_storage
from firelock.retry import Retry
from firelock.schedules.cron import Cron, Every
from firelock.schedules.recurring_job import RECURRING
from firelock.storage import Feature, JobFilter, shown_url

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from firelock.jobs.job import Job
    from firelock.plugins.hookspecs import Command

_APP = "firelock.cli.demo_shop:fire"
_DEFAULT_SECONDS = 8.0
_POLL_INTERVAL = 0.15  # seconds
_WORKERS = 6
_START_LIMIT, _LATE_LIMIT = 30.0, 30.0
_STOP_LIMITS = (3.0, 15.0)
# Intervals are short, so that a demo of ten seconds can show events that are otherwise rare.
_ENVIRONMENT = {"FIRELOCK_POLL": "0.2", "FIRELOCK_SWEEP": "1", "FIRELOCK_GRACE": "2"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to the parser."""
    describe(
        parser, _demonstrate,
        more=(
            "A server process runs the jobs of a small shop; this process enqueues and shows them.\n"
            "The jobs are stored in a temporary SQLite file, which is deleted at the end unless you add\n"
            "--keep. With --storage, they are stored and kept there; this storage must be empty, and\n"
            "several processes must be able to use it. With --dashboard, the shop runs until Ctrl-C, and\n"
            "you follow it in a browser."
        ),
        examples=("firelock demo", "firelock demo --dashboard", "firelock demo --seconds 30 --keep"),
    )  # fmt: skip
    length = seconds_between(3.0, 600.0)
    parser.add_argument("--seconds", type=length, metavar="N", help="duration, 3 to 600 (default: 8)")
    parser.add_argument("--keep", action="store_true", help="keep the file for use with other commands")
    group = parser.add_argument_group("in a browser")
    group.add_argument("--dashboard", action="store_true", help="show the shop in a dashboard until Ctrl-C")
    group.add_argument("--port", type=int, metavar="N", help="port of the dashboard (default: a free one)")
    group.add_argument("--no-browser", action="store_true", help="print the address without opening it")


def _demonstrate(options: argparse.Namespace, screen: Screen) -> int:
    command = _dashboard(options, screen)
    if options.app:
        raise Problem(
            "The demo runs its own app.", hint="Remove --app; use --storage URL to choose a storage."
        )
    if options.storage:
        _require_empty(options.storage)
    else:
        _require_sqlite()
    with _folder(is_kept=options.keep) as folder:
        place = Place(
            folder / "demo.db", is_kept=options.keep or bool(options.storage), given=options.storage
        )
        if not screen.is_json:
            _introduce(screen, place)
        shop.fire.use_storage(place.url)
        with _server(place) as server, shop.fire as app:
            _await_server(app, server)
            if command is None:
                _run_story(Story(app, options.seconds or _DEFAULT_SECONDS), place, screen, server)
            else:
                _open(command, options, place, screen)
    return Exit.DONE


@attrs.frozen
class Place:
    """The location of the demo's jobs."""

    file: Path
    is_kept: bool
    given: str | None = None  # the URL that the user passed

    @property
    def url(self) -> str:
        """The storage's URL."""
        return self.given or f"sqlite:///{self.file}"

    def __str__(self) -> str:
        """Return the file, or the URL without its password."""
        return shown_url(self.given) if self.given else str(self.file)

    @property
    def kept(self) -> str:
        """A clause that states where the jobs are kept after the demo."""
        return "The jobs are kept in the storage" if self.given else "The jobs are kept in the file"


def _require_sqlite() -> None:
    try:
        open_storage("sqlite:///demo.db").close()
    except UnknownScheme as error:
        raise Problem(
            'The demo stores its jobs in an SQLite file, which needs pip install "firelock[sql]".',
        ) from error


def _require_empty(url: str) -> None:
    """Check that the demo can run on the storage and that the storage has no jobs.

    Raises:
        Problem: If only one process can use the storage, or it has jobs or recurring jobs.
        StorageError: If the storage is unreachable.
    """
    with Firelock(url) as app:
        if Feature.SHARED not in app.storage.features:
            raise Problem(
                f"The demo cannot use {shown_url(url)}: its server is another process, which could not "
                "read the jobs.",
                hint="Use a storage that several processes can share, for example sqlite:///demo.db.",
            )
        if app.jobs.counts().total or app.recurring.list():
            raise Problem(
                f"The demo needs an empty storage, but {shown_url(url)} already has jobs.",
                hint="Use an empty storage, such as a new database, or add a prefix to the URL.",
            )


def _introduce(screen: Screen, place: Place) -> None:
    screen.line(Cell("Firelock demo", "bold"), "  a shop's jobs, run by a separate server process")
    screen.line(Cell(f"storage  {place}", "bright_black"))
    screen.flush()


# ---- storage and server ----------------------------------------------------------------------------------


@contextmanager
def _folder(*, is_kept: bool) -> Iterator[Path]:
    """Yield a new folder and delete it afterwards, even after SIGTERM, unless it is kept."""
    folder = Path(tempfile.mkdtemp(prefix="firelock-demo-"))
    previous = signal.signal(signal.SIGTERM, _leave)
    try:
        yield folder
    finally:
        signal.signal(signal.SIGTERM, previous)
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def _leave(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


@contextmanager
def _server(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """Run a real `firelock server` within the block."""
    with (place.file.parent / "server.log").open("wb") as log_file:
        server = subprocess.Popen(  # noqa: S603 - this interpreter and a module of Firelock
            [sys.executable, "-m", "firelock", "server", _APP, "--storage", place.url,
             "--name", "demo-server", "--workers", str(_WORKERS), "--queues", "critical,mail,default,images"],
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL, stdout=log_file, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield server
        finally:
            stop(server)


def stop(server: subprocess.Popen[bytes], limits: Sequence[float] = _STOP_LIMITS) -> None:
    """Stop the server: for each limit, send SIGTERM and wait up to that many seconds; finally, kill it."""
    for limit in limits:
        if server.poll() is None:
            server.terminate()
        try:
            server.wait(limit)
        except subprocess.TimeoutExpired:
            continue
        return
    server.kill()
    server.wait()


def _await_server(app: Firelock, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_LIMIT
    while not any(session.is_alive for session in app.storage.list_sessions()):
        if server.poll() is not None or time.monotonic() > deadline:
            raise _died(server)
        time.sleep(_POLL_INTERVAL / 3)


def _died(server: subprocess.Popen[bytes]) -> Problem:
    state = "has not started" if server.poll() is None else f"ended with exit code {server.returncode}"
    return Problem(
        f"The demo's server {state}.", hint="Use --keep to keep its log, server.log.", code=Exit.FAILED
    )


# ---- demo in a browser -----------------------------------------------------------------------------------


# of 100 cards, the numbers that are charged at the first, second or third try, or after a requeue
_DECLINES = (82, 9, 6, 3)
_REMINDED = 0.3  # share of customers who get a reminder
_FIRST_ORDERS = 20  # number of orders without a delay between them
_PHOTOS_EACH, _REPORT_EACH, _CATALOGUE_EACH = 16, 40, 60  # number of orders per item of this kind


def _dashboard(options: argparse.Namespace, screen: Screen) -> Command | None:
    """Return the command that shows a dashboard; None if no dashboard is requested.

    Raises:
        Problem: If no plugin offers a dashboard, or other options conflict with it.
    """
    if not options.dashboard:
        if options.port is not None or options.no_browser:
            raise Problem(
                "--port and --no-browser require --dashboard.",
                hint="Run firelock demo --dashboard.",
            )
        return None
    if screen.is_json or options.seconds is not None:
        raise Problem(
            "firelock demo --dashboard runs until Ctrl-C and shows its output in a browser.",
            hint="Remove --json and --seconds.",
        )
    for command in Plugins().commands():
        if command.name == "dashboard":
            return command
    raise Problem('The dashboard is not installed; run pip install "firelock[sql,dashboard]".')


def _open(command: Command, options: argparse.Namespace, place: Place, screen: Screen) -> None:
    """Run the shop and its dashboard until Ctrl-C."""
    closing = Event()
    trade = Thread(target=_trade, args=(closing,), name="customers", daemon=True)
    trade.start()
    try:
        _invite(screen)
        command.run(_dashboard_options(command, options, place, screen))
    finally:
        closing.set()
        trade.join()
    ended = shop.fire.jobs.counts().by_state[State.SUCCEEDED]
    kept = f"{place.kept}: {place}" if place.is_kept else "The file was deleted; use --keep to keep it."
    screen.line()
    screen.line(f"The shop is closed; {ended:,} jobs have succeeded. ", Cell(kept, "bright_black"))


def _invite(screen: Screen) -> None:
    pid = next(record.session.pid for record in shop.fire.storage.list_sessions() if record.is_alive)
    screen.line()
    screen.line(Cell("Try", "bold"))
    screen.facts([
        ("Live, above the graph", "jobs per second"),
        ("Requeue all, by CardDeclined", "the bank now responds: the jobs succeed, and receipts are sent"),
        ("Queues, mail, Pause", "receipts wait until you resume the queue"),
        ("Batches, autumn catalogue", "its progress bar, and its flow as a graph"),
        ("Jobs, Awaiting, refund_order", "waits for you without a worker; send true to continue it"),
        (f"kill -9 {pid}", "kills the worker process; another one runs its jobs again"),
    ], indent=2)  # fmt: skip
    screen.line()
    screen.flush()


def _dashboard_options(
    command: Command, options: argparse.Namespace, place: Place, screen: Screen
) -> argparse.Namespace:
    """Return the options of `firelock dashboard` for the demo's shop."""
    parser = argparse.ArgumentParser()
    command.configure(parser)
    words = ["--port", str(options.port or 0), "--title", "Firelock demo"]
    if screen.is_terminal and not options.no_browser and _has_browser():
        words.append("--open")
    parsed = parser.parse_args(words)
    parsed.is_json = False
    parsed.app, parsed.storage = None, place.url
    parsed.open_app, parsed.as_called = lambda: _second_app(place), as_called
    return parsed


def _second_app(place: Place) -> Firelock:
    """Return an app with the shop's tasks; the dashboard closes this app when the dashboard ends."""
    app = Firelock(place.url)
    for info in shop.fire.tasks():
        app.registry.register(info)
    return app


def _has_browser() -> bool:
    """Return whether a graphical browser can open on the user's screen, not only on a remote host."""
    if "SSH_CONNECTION" in os.environ:
        return False
    if sys.platform != "darwin" and not os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _trade(closing: Event) -> None:
    """Run the shop until it is closed, with some orders per second, photos, reports and prices."""
    random = Random()  # noqa: S311 - simulates customers
    shop.count_stock.recur("stock-count", Every(timedelta(seconds=5)))
    shop.build_report.recur("nightly-report", Cron.daily(2, tz="Europe/Istanbul"), 40, 20.0)
    shop.import_prices.using(retry=Retry.fixed(3, attempts=1)).enqueue("prices.csv")
    shop.refund_order.enqueue(1000, 129.0)
    _sell(1000, 3, random)
    for number in count():
        _sell(1001 + number, random.choices((0, 1, 2, 3), _DECLINES)[0], random)
        if number % _PHOTOS_EACH == 0:
            shop.resize_image.enqueue_many([(place, random.uniform(0.1, 1.2)) for place in range(1, 13)])
        if number % _CATALOGUE_EACH == 0:
            catalogue(6, random.uniform(1, 4))
        if number % _REPORT_EACH == 0:
            shop.build_report.enqueue(12, random.uniform(5, 10)).then(shop.mail_report, "owner@shop.example")
        if closing.wait(random.uniform(0.1, 0.7) if number > _FIRST_ORDERS else 0):
            return


def _sell(order: int, declines: int, random: Random) -> None:
    """Charge the card, then send the receipt and, for some customers, a reminder."""
    charged = shop.charge_card.using(retry=Retry.fixed(2, attempts=2)).enqueue(order, declines)
    charged.then(shop.send_receipt, order)
    if random.random() < _REMINDED:
        shop.remind_customer.schedule(timedelta(seconds=random.uniform(5, 90)), order)


def catalogue(pages: int, seconds: float) -> list[Job[Any]]:
    """Store a batch and return its jobs: images, a member that uses all of them, and a continuation."""
    with shop.fire.batch("autumn catalogue", tags=["catalogue"]) as batch:
        images = [batch.add(shop.resize_image, page, seconds) for page in range(1, pages + 1)]
        published = batch.add(shop.publish_catalogue, [image.output for image in images])
        mailed = batch.then(shop.mail_report, "owner@shop.example")
    return [*images, published, mailed]


# ---- demo in a terminal ----------------------------------------------------------------------------------


_RECURRING = "stock-count"
_USUAL_SECONDS = 10.0
_IMAGES = 12
_MOST = 500


@attrs.frozen
class Act:
    """One feature that the demo shows, with its name and the jobs that show it."""

    kind: str
    task: str
    jobs: tuple[str, ...]


@attrs.frozen
class Happened:
    """An event of a job, with its time in seconds since the start of the demo."""

    seconds: float
    word: str  # a state, "retry" or "log"
    task: str
    text: str


@attrs.frozen
class Moment:
    """The state of the demo at one point in time."""

    seconds: float
    length: float
    by_state: Mapping[State, int]
    running: Sequence[tuple[JobRecord, Progress | None]]
    events: Sequence[Happened]  # events since the previous moment
    is_last: bool


class Story:
    """The jobs of the demo, with methods that enqueue them and read their states."""

    def __init__(self, app: Firelock, seconds: float) -> None:
        self.length = seconds
        self.acts: list[Act] = []
        self.records: dict[str, JobRecord] = {}
        self._storage = app.storage
        self._pace = seconds / _USUAL_SECONDS
        self._every = max(1, round(2 * self._pace))
        self._began_at = self._storage.clock()
        self._is_ending = False
        self._seen_entries: dict[str, int] = {}
        self._seen_lines: dict[str, int] = {}

    def begin(self) -> None:
        """Enqueue all jobs; after that, this process only reads them."""
        pace = self._pace
        self._began_at = self._storage.clock()
        self._act("fire-and-forget", [shop.send_receipt.enqueue(order) for order in (1001, 1002, 1003)])
        images = [(number, pace * (0.6 + number % 4 * 0.3)) for number in range(1, _IMAGES + 1)]
        self._act("bulk, one round trip", shop.resize_image.enqueue_many(images))
        report = shop.build_report.enqueue(8, 4 * pace)
        self._act("with progress", [report])
        self._act("continuation", [report.then(shop.mail_report, "owner@shop.example")])
        self._act("delayed", [shop.remind_customer.schedule(timedelta(seconds=5 * pace), 1002)])
        patient = Retry.listed([1.2 * pace, 2 * pace], attempts=3, jitter=0)
        self._act("fails, then recovers", [shop.charge_card.using(retry=patient).enqueue(1001, 2)])
        once = Retry.fixed(1.5 * pace, attempts=1, jitter=0)
        self._act("fails permanently", [shop.import_prices.using(retry=once).enqueue("prices.csv")])
        self._act("batch, continuation", catalogue(4, 0.4 * pace))
        refund = shop.refund_order.enqueue(1003, 19.9)
        self._act("steps, waits for signal", [refund])
        self._act("sends the signal", [shop.approve_refund.schedule(timedelta(seconds=3 * pace), refund.id)])
        shop.count_stock.recur(_RECURRING, Every(timedelta(seconds=self._every)))
        self.acts.append(Act("recurring", "shop.count_stock", ()))

    def _act(self, kind: str, jobs: Sequence[Job[Any]]) -> None:
        self.acts.append(Act(kind, jobs[0].task, tuple(job.id for job in jobs)))

    def end_recurring(self) -> None:
        """Stop the recurring job after the requested duration, so that no new jobs are created."""
        if not self._is_ending and self._storage.clock() - self._began_at >= self.length * 1_000_000:
            self._storage.delete_record(RECURRING, _RECURRING)
            self._is_ending = True

    @property
    def is_complete(self) -> bool:
        """Whether no new jobs are created and, in the last reading, every job had ended."""
        return self._is_ending and all(record.is_final for record in self.records.values())

    def read(self, *, is_last: bool = False) -> Moment:
        """Return the current moment, with the events since the previous one."""
        records = self._storage.find(JobFilter(), limit=_MOST, oldest_first=True).jobs
        events = [event for record in records for event in self._events_of(record)]
        events = _merged(sorted(events, key=lambda event: event.seconds))
        self.records = {record.id: record for record in records}
        running = [record for record in records if record.state is State.PROCESSING]
        current = self._storage.get([record.id for record in running]) if running else []
        progress = [record.progress if record else None for record in current]
        return Moment(
            self._second(self._storage.clock()),
            self.length,
            self._storage.counts().by_state,
            sorted(zip(running, progress, strict=True), key=lambda pair: pair[1] is None),
            events,
            is_last,
        )

    def _events_of(self, record: JobRecord) -> list[Happened]:
        if self.records.get(record.id) == record and record.state is not State.PROCESSING:
            return []
        entries = self._storage.history(record.id).entries
        lines = self._storage.read_log(record.id, after=self._seen_lines.get(record.id, 0))
        if lines:
            self._seen_lines[record.id] = lines[-1].number
        seen, self._seen_entries[record.id] = self._seen_entries.get(record.id, 0), len(entries)
        return [
            *(self._change(record, entry) for entry in entries[seen:]),
            *(self._line(record, line) for line in lines),
        ]

    def _change(self, record: JobRecord, entry: HistoryEntry) -> Happened:
        is_retry = entry.state is State.SCHEDULED and entry.attempt is not None
        text = entry.reason or ""
        if record.recurring_id is not None and entry.state is State.ENQUEUED:
            text = f"recurring, every {self._every} s"
        if entry.state is State.SUCCEEDED and entry.started_at is not None:
            text = f"attempt {entry.attempt}, {(entry.at - entry.started_at) / 1_000_000:.2f} s"
        return Happened(self._second(entry.at), "retry" if is_retry else entry.state, record.task, text)

    def _line(self, record: JobRecord, line: LogLine) -> Happened:
        return Happened(self._second(line.at), "log", record.task, line.text)

    def _second(self, at: int) -> float:
        return max(0.0, (at - self._began_at) / 1_000_000)

    def jobs_of(self, act: Act) -> list[JobRecord]:
        """Return the jobs of an act; for a recurring job, all jobs that it created."""
        if act.jobs:
            return [self.records[job_id] for job_id in act.jobs if job_id in self.records]
        return [record for record in self.records.values() if record.recurring_id == _RECURRING]


def _merged(events: Sequence[Happened]) -> list[Happened]:
    """Return the events; successive events with the same word, task and text become one."""
    merged: list[Happened] = []
    for (word, task, text), alike in groupby(events, key=lambda event: (event.word, event.task, event.text)):
        same = list(alike)
        times = f"× {len(same)}" if len(same) > 1 else ""
        merged.append(Happened(same[0].seconds, word, task, f"{times} {text}".strip()))
    return merged


def _run_story(story: Story, place: Place, screen: Screen, server: subprocess.Popen[bytes]) -> None:
    """Enqueue all jobs, show them until they have ended, and print a summary."""
    if not screen.is_json:
        text = f"server   demo-server, {_WORKERS} workers, queues critical, mail, default, images"
        screen.line(Cell(text, "bright_black"))
        screen.line()
    story.begin()
    view = LiveView(screen) if screen.is_terminal else PlainView(screen)
    deadline = time.monotonic() + story.length + _LATE_LIMIT
    with view.open():
        while not story.is_complete and time.monotonic() < deadline and server.poll() is None:
            story.end_recurring()
            view.show(story.read())
            time.sleep(_POLL_INTERVAL)
        view.show(story.read(is_last=True))
    if server.poll() is not None:
        raise _died(server)
    if screen.is_json:
        screen.json(_json(story, place))
    else:
        _conclude(screen, story, place)


# ---- views -----------------------------------------------------------------------------------------------


_STYLES = {**STATE_STYLES, "retry": "cyan", "log": "bright_black"}
_BAR, _LONG_BAR, _TEXT, _TASK = 24, 58, 60, 16
_EVENTS_SHOWN, _RUNNING_SHOWN = 12, 5
_OTHER_LINES = 15  # lines above the live view, and lines of the view other than events and running jobs
_ORDER = (
    State.ENQUEUED, State.PROCESSING, State.SCHEDULED, State.AWAITING, State.SUCCEEDED, State.FAILED,
)  # fmt: skip


class PlainView:
    """Output with one line per event; empty if the output is JSON."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def open(self) -> AbstractContextManager[object]:
        """Return the context in which moments are shown."""
        return nullcontext()

    def show(self, scene: Moment) -> None:
        """Print the events of the moment."""
        if not self._screen.is_json:
            for event in scene.events:
                self._screen.line(*_event_pieces(event))
            self._screen.flush()


class LiveView:
    """State counts, running jobs and the last events, redrawn several times a second."""

    def __init__(self, screen: Screen) -> None:
        from rich.live import Live  # noqa: PLC0415 - loaded for terminals only

        self._live: Live = Live(console=screen.console, auto_refresh=False, transient=False)
        room = screen.console.height - _OTHER_LINES
        self._height = max(3, min(_EVENTS_SHOWN, room))
        self._last: deque[Happened] = deque(maxlen=self._height)

    def open(self) -> AbstractContextManager[object]:
        """Return the context in which the view is shown."""
        return self._live

    def show(self, scene: Moment) -> None:
        """Show the moment."""
        from rich.console import Group  # noqa: PLC0415 - loaded for terminals only

        self._last.extend(scene.events)
        shown = Group(self._head(scene), self._running(scene), self._happened(is_last=scene.is_last))
        self._live.update(shown, refresh=True)

    def _head(self, scene: Moment) -> Text:
        from rich.text import Text  # noqa: PLC0415 - loaded for terminals only

        head = Text("\n", no_wrap=True, overflow="ellipsis")
        for state in _ORDER:
            count = scene.by_state.get(state, 0)
            style = STATE_STYLES[state] if count else "bright_black"
            head.append(f"  {count:>2}", f"bold {style}" if count else style).append(f" {state}", style)
        share = 1.0 if scene.is_last else scene.seconds / scene.length
        text = "done" if scene.is_last else f"{min(scene.seconds, scene.length):.1f} of {scene.length:g} s"
        return head.append(f"\n\n   {_bar(share, _LONG_BAR)}  {text}\n", "bright_black")

    def _running(self, scene: Moment) -> Table:
        from rich.table import Table  # noqa: PLC0415 - loaded for terminals only
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
        shown = scene.running[:_RUNNING_SHOWN]
        for record, progress in shown:
            share = progress.done / progress.total if progress and progress.total else 0.0
            bar = Text(_bar(share, _BAR), "yellow") if progress else Text("·" * _BAR, "bright_black")
            text = visible(progress.message or "") if progress else f"attempt {record.attempt}"
            table.add_row(
                Text("processing", "yellow"), Text(f"{_short(record.task):<{_TASK}}"), bar, Text(text)
            )
        # keeps the height of the table constant
        for _ in range(0 if scene.is_last else _RUNNING_SHOWN - len(shown)):
            table.add_row(Text(""), Text(""), Text(""), Text(""))
        return table

    def _happened(self, *, is_last: bool) -> Text:
        from rich.text import Text  # noqa: PLC0415 - loaded for terminals only

        text = Text("\n", no_wrap=True, overflow="ellipsis")
        for event in self._last:
            for cell in _event_pieces(event):
                text.append(cell.text, cell.style)
            text.append("\n")
        if is_last:
            text.rstrip()
            return text
        return text.append("\n" * (self._height - len(self._last)))


def _bar(share: float, length: int) -> str:
    full = round(max(0.0, min(1.0, share)) * length)
    return "━" * full + "─" * (length - full)


def _short(task: str) -> str:
    return visible(task.rpartition(".")[2])


def _event_pieces(event: Happened) -> list[Cell]:
    style = _STYLES.get(event.word, "")
    return [
        Cell(f"  {event.seconds:5.1f} s  ", "bright_black"),
        Cell(f"{event.word:<11}", style),
        Cell(f"{_short(event.task):<{_TASK}}  "),
        Cell(shorten(event.text, _TEXT), "bright_black" if event.word != "failed" else style),
    ]


# ---- summary ---------------------------------------------------------------------------------------------


def show_summary(screen: Screen, story: Story) -> None:
    """Print a table of the acts, with their jobs and attempts."""
    columns = (
        Column("FEATURE"), Column("TASK"), Column("JOBS", is_number=True), Column("ATTEMPTS", is_number=True),
        Column("RETRIES", is_number=True), Column("END"),
    )  # fmt: skip
    screen.line()
    screen.line(Cell("Summary", "bold"))
    screen.table(columns, [_row(story, act) for act in story.acts])


def _row(story: Story, act: Act) -> list[Piece]:
    jobs = story.jobs_of(act)
    ends = {record.state for record in jobs}
    end = "none ran" if not ends else ", ".join(sorted(ends))
    style = STATE_STYLES[next(iter(ends))] if len(ends) == 1 else ""
    attempts, retries = sum(record.attempt for record in jobs), sum(record.retries for record in jobs)
    return [act.kind, _short(act.task), len(jobs), attempts, retries or "", Cell(end, style)]


def _conclude(screen: Screen, story: Story, place: Place) -> None:
    show_summary(screen, story)
    for record in story.records.values():
        if record.state != "failed":
            continue
        error = f"{record.error.type}: {record.error.message}" if record.error else record.reason or ""
        screen.line()
        screen.line(Cell("Failed permanently", "bold"), "  ", record.task, "  ", Cell(error, "red"))
        screen.line(f"  {program_of_shell()} jobs show {record.id}")
        screen.line(f"  {program_of_shell()} jobs requeue {record.id}")
    if place.is_kept:
        screen.line(Cell(f"  {place.kept}. To use these commands, first run", "bright_black"))
        screen.line(f"  export FIRELOCK_STORAGE={place.url}")
        screen.line(Cell("  To run requeued jobs, start", "bright_black"))
        screen.line(f"  {program_of_shell()} server {_APP} --storage {place.url}")
    else:
        text = f"  The file was deleted; {program_of_shell()} demo --keep keeps it for these commands."
        screen.line(Cell(text, "bright_black"))
    screen.line()
    screen.line(Cell("Next", "bold"))
    screen.facts([
        (f"{program_of_shell()} demo --dashboard", "run the shop until Ctrl-C and show it in a browser"),
        (f"{program_of_shell()} doctor", "find problems and how to fix them"),
        (f"{program_of_shell()} server app:fire", "run the jobs of your own app"),
        (f"{program_of_shell()} --help", "list all commands"),
    ], indent=2)  # fmt: skip


def _json(story: Story, place: Place) -> dict[str, object]:
    return {
        "file": str(place.file) if place.is_kept and not place.given else None,
        "storage": str(place) if place.given else None,
        "acts": [
            {"kind": act.kind, "task": act.task, "jobs": [record.id for record in story.jobs_of(act)]}
            for act in story.acts
        ],
        "jobs": [job_json(record) for record in story.records.values()],
    }
