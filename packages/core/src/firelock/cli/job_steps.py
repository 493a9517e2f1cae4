"""`firelock jobs steps|signal|read`: the stored steps of a job, its signals and its streams."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from firelock.cli.commands import Exit, Problem, add_command, record_change, user_name
from firelock.cli.screen import Cell, Column, Piece, Screen
from firelock.cli.source import connected
from firelock.flows.signals import answer, why_not_answered
from firelock.model.answers import Applied
from firelock.model.clock import micros
from firelock.model.memo import MemoKind
from firelock.model.text import age, clock_time, isoformat, shorten, span

if TYPE_CHECKING:
    from firelock.cli.commands import Commands
    from firelock.jobs.job import Step

_COLUMNS = (
    Column("STEP", is_whole=True),
    Column("KIND", is_whole=True),
    Column("TOOK", is_number=True),
    Column("AT", is_whole=True),
    Column("FROM"),
    Column("VALUE"),
)
_VALUE = 200


def add_step_commands(group: Commands) -> None:
    """Add the commands to the group."""
    steps = add_command(
        group, "steps", "List what a job remembers: steps, signals, sleeps, called jobs.", _steps,
        examples=("firelock jobs steps 01a21072-9d46-7c87-a484-8087cf5d557e",),
    )  # fmt: skip
    signal = add_command(
        group, "signal", "Answer a job that waits for a signal, or will; the first answer stands.", _signal,
        more="VALUE is JSON of the signal's type. Where the app makes that signal, --app, it is checked\n"
        "now, else by the job when it reads it. A job that waits for another one takes it by --early.",
        examples=(
            """firelock jobs signal 01a21072-9d46-7c87-a484-8087cf5d557e approval '{"ok": true}'""",
        ),
    )  # fmt: skip
    signal.add_argument("id", metavar="ID")
    signal.add_argument("name", metavar="SIGNAL")
    signal.add_argument("value", metavar="VALUE")
    signal.add_argument("--early", action="store_true", help="also where the job waits for another one now")
    read = add_command(
        group, "read", "Print what a job emits, as it comes, until it has ended.", _read,
        examples=("firelock jobs read 01a21072-9d46-7c87-a484-8087cf5d557e",),
    )  # fmt: skip
    read.add_argument("--stream", default="out", metavar="NAME", help="which stream: out")
    for command in (steps, read):
        command.add_argument("id", metavar="ID")


def _steps(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        steps = app.jobs.get(options.id).steps()
        now = app.client.clock.now()
    screen.listing(
        "steps", map(_answer, steps), _COLUMNS, [_row(step, now) for step in steps],
        empty="The job remembers nothing.",
    )  # fmt: skip


def _row(step: Step, now: int) -> list[Piece]:
    took = "" if step.took is None else span(micros_of(step))
    until = _until(step)
    if until is not None:
        value = f"until {clock_time(until)}, {age(until, now)}"
    elif step.kind is MemoKind.SIGNAL and not step.is_done:
        value = "until it is sent"
    else:
        value = shorten(" ".join((step.value or "").split()), _VALUE)
    name = step.name if step.is_done else Cell(f"{step.name} (under way)", "yellow")
    return [name, str(step.kind), took, age(micros(step.at), now), step.author, Cell(value, "bright_black")]


def _until(step: Step) -> int | None:
    """Return when a sleep or a wait for a signal ends, in microseconds; None if it has no end."""
    is_wait = step.kind is MemoKind.SLEEP or (step.kind is MemoKind.SIGNAL and not step.is_done)
    return int(step.value) if is_wait and step.value and step.value.isdecimal() else None


def micros_of(step: Step) -> int:
    """Return how long the step took, in microseconds."""
    return 0 if step.took is None else int(step.took.total_seconds() * 1_000_000)


def _answer(step: Step) -> dict[str, object]:
    return {
        "name": step.name, "kind": step.kind, "is_done": step.is_done, "at": isoformat(micros(step.at)),
        "took_seconds": None if step.took is None else step.took.total_seconds(), "attempt": step.attempt,
        "author": step.author, "until": isoformat(_until(step)),
        "value": step.value if _until(step) is None else None,
    }  # fmt: skip


def _signal(options: argparse.Namespace, screen: Screen) -> int:
    try:
        json.loads(options.value)
    except ValueError as error:
        raise Problem(
            f"{options.value!r} is no JSON: {error}.", hint="""Write a text with quotes: '"yes"'."""
        ) from error
    with connected(options) as app:
        job, known = app.storage.get([options.id])[0], app.signal_named(options.name)
        why = why_not_answered(job, options.name, options.value, known, is_early=options.early)
        if why is not None:
            raise Problem(why, hint="Nothing was sent. A job that comes to that wait later: add --early.")
        new = answer(options.id, options.name, options.value, at=app.client.clock.now(), author=user_name())
        told = app.storage.remember([new])[0]
        if told.answer.is_applied:
            record_change(app, "signal.send", options.id, signal=options.name)
    if told.answer is Applied.MISSING:
        raise Problem(f"Job {options.id} is not stored.", code=Exit.NOT_FOUND)
    if told.answer is Applied.REFUSED:
        raise Problem(
            f"Job {options.id} takes no signal: it has ended, or remembers as much as it may.",
            hint="firelock jobs show tells its state.",
        )
    is_first = told.answer.is_applied
    if screen.is_json:
        screen.json({"id": options.id, "signal": options.name, "is_first": is_first})
    else:
        said = Cell("answered", "green") if is_first else Cell("too late: another answer was first", "yellow")
        screen.line(options.name, "  ", said)
    return Exit.DONE if is_first else Exit.FAILED


def _read(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        run: int | None = None
        chunks = []
        for chunk in app.jobs.get(options.id).stream(options.stream):
            if screen.is_json:
                chunks.append({"offset": chunk.offset, "run": chunk.run, "data": chunk.data})
                continue
            if run is not None and chunk.run != run:
                screen.note("\nAnother run goes on; a step that was cut off emits once more.")
            run = chunk.run
            sys.stdout.write(chunk.data if not sys.stdout.isatty() else _harmless(chunk.data))
            sys.stdout.flush()
    if screen.is_json:
        screen.json({"chunks": chunks})


def _harmless(text: str) -> str:
    """Return the text without characters that a terminal would treat as control sequences."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
