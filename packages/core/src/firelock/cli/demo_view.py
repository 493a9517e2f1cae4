"""How the demo looks: a live table on a terminal, a line an event elsewhere, a summary at the end."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from firelock.cli.screen import STATE_STYLES, Cell, Column, Piece, Screen
from firelock.cli.text import shorten, visible
from firelock.values import State

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from firelock.cli.demo_story import Act, Event, Scene, Story

__all__ = ["LiveView", "PlainView", "View", "show_summary", "view_for"]

_STYLES = {**STATE_STYLES, "retry": "cyan", "log": "bright_black"}
_BAR, _LONG_BAR, _TEXT, _TASK = 24, 58, 60, 16
_EVENTS_SHOWN, _RUNNING_SHOWN = 12, 5
_OTHER_LINES = 15  # of the live view and what stands above it
_ORDER = (
    State.ENQUEUED, State.PROCESSING, State.SCHEDULED, State.AWAITING, State.SUCCEEDED, State.FAILED,
)  # fmt: skip


class PlainView:
    """One line for each thing that happens."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def open(self) -> AbstractContextManager[object]:
        """Return the block within which scenes are shown."""
        return nullcontext()

    def show(self, scene: Scene) -> None:
        """The scene's events are written."""
        for event in scene.events:
            self._screen.line(*event_pieces(event))
        self._screen.flush()


class SilentView(PlainView):
    """Shows nothing; the answer is JSON."""

    def show(self, scene: Scene) -> None:
        """Nothing."""


class LiveView:
    """State counts, running jobs and the last events, drawn anew several times a second."""

    def __init__(self, screen: Screen) -> None:
        from rich.live import Live  # noqa: PLC0415 - loaded for terminals only

        self._live: Live = Live(console=screen.console, auto_refresh=False, transient=False)
        room = screen.console.height - _OTHER_LINES
        self._height = max(3, min(_EVENTS_SHOWN, room))
        self._last: deque[Event] = deque(maxlen=self._height)
        self._is_over = False

    def open(self) -> AbstractContextManager[object]:
        """Return the block within which the table lives."""
        return self._live

    def show(self, scene: Scene) -> None:
        """The table shows the scene."""
        from rich.console import Group  # noqa: PLC0415 - loaded for terminals only

        self._last.extend(scene.events)
        self._is_over = scene.is_last
        shown = Group(self._head(scene), self._running(scene), self._happened())
        self._live.update(shown, refresh=True)

    def _head(self, scene: Scene) -> Text:
        from rich.text import Text  # noqa: PLC0415 - loaded for terminals only

        head = Text("\n", no_wrap=True, overflow="ellipsis")
        for state in _ORDER:
            count = scene.by_state.get(state, 0)
            style = STATE_STYLES[state] if count else "bright_black"
            head.append(f"  {count:>2}", f"bold {style}" if count else style).append(f" {state}", style)
        share = 1.0 if scene.is_last else scene.seconds / scene.length
        said = "over" if scene.is_last else f"{min(scene.seconds, scene.length):.1f} of {scene.length:g} s"
        return head.append(f"\n\n   {_bar(share, _LONG_BAR)}  {said}\n", "bright_black")

    def _running(self, scene: Scene) -> Table:
        from rich.table import Table  # noqa: PLC0415 - loaded for terminals only
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
        shown = scene.running[:_RUNNING_SHOWN]
        for record, progress in shown:
            share = progress.done / progress.total if progress and progress.total else 0.0
            bar = Text(_bar(share, _BAR), "yellow") if progress else Text("·" * _BAR, "bright_black")
            said = visible(progress.message or "") if progress else f"attempt {record.attempt}"
            table.add_row(
                Text("processing", "yellow"), Text(f"{short(record.task):<{_TASK}}"), bar, Text(said)
            )
        for _ in range(0 if self._is_over else _RUNNING_SHOWN - len(shown)):  # the table keeps its height
            table.add_row(Text(""), Text(""), Text(""), Text(""))
        return table

    def _happened(self) -> Text:
        from rich.text import Text  # noqa: PLC0415 - loaded for terminals only

        text = Text("\n", no_wrap=True, overflow="ellipsis")
        for event in self._last:
            for cell in event_pieces(event):
                text.append(cell.text, cell.style)
            text.append("\n")
        if self._is_over:
            text.rstrip()
            return text
        return text.append("\n" * (self._height - len(self._last)))


View = PlainView | LiveView


def view_for(screen: Screen) -> View:
    """Return the view that fits where the demo is shown."""
    if screen.is_json:
        return SilentView(screen)
    return LiveView(screen) if screen.is_terminal else PlainView(screen)


def _bar(share: float, length: int) -> str:
    full = round(max(0.0, min(1.0, share)) * length)
    return "━" * full + "─" * (length - full)


def short(task: str) -> str:
    """Return a task's name without its module."""
    return visible(task.rpartition(".")[2])


def event_pieces(event: Event) -> list[Cell]:
    """Return an event as aligned pieces."""
    style = _STYLES.get(event.word, "")
    return [
        Cell(f"  {event.seconds:5.1f} s  ", "bright_black"),
        Cell(f"{event.word:<11}", style),
        Cell(f"{short(event.task):<{_TASK}}  "),
        Cell(shorten(event.text, _TEXT), "bright_black" if event.word != "failed" else style),
    ]


# ---- the end ---------------------------------------------------------------------------------------------


def show_summary(screen: Screen, story: Story) -> None:
    """What ran, act by act."""
    columns = (
        Column("WHAT"), Column("TASK"), Column("JOBS", is_number=True), Column("RUNS", is_number=True),
        Column("RETRIES", is_number=True), Column("END"),
    )  # fmt: skip
    screen.line()
    screen.line(Cell("What ran", "bold"))
    screen.table(columns, [_row(story, act) for act in story.acts])


def _row(story: Story, act: Act) -> list[Piece]:
    jobs = story.jobs_of(act)
    ends = {record.state for record in jobs}
    end = "none ran" if not ends else ", ".join(sorted(ends))
    style = STATE_STYLES[next(iter(ends))] if len(ends) == 1 else ""
    runs, retries = sum(record.attempt for record in jobs), sum(record.retries for record in jobs)
    return [act.kind, short(act.task), len(jobs), runs, retries or "", Cell(end, style)]
