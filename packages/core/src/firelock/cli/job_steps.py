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
        group, "steps", "List a job's stored steps, signals, sleeps and called jobs.", _steps,
        examples=("firelock jobs steps 01a21072-9d46-7c87-a484-8087cf5d557e",),
    )  # fmt: skip
    signal = add_command(
        group, "signal", "Send a signal to a job; only the first value is stored.", _signal,
        more="VALUE is JSON of the signal's type. It is checked now if --app names an app that declares the\n"
        "signal, otherwise when the job reads it. If the job waits for another signal, add --early.",
        examples=(
            """firelock jobs signal 01a21072-9d46-7c87-a484-8087cf5d557e approval '{"ok": true}'""",
        ),
    )  # fmt: skip
    signal.add_argument("id", metavar="ID")
    signal.add_argument("name", metavar="SIGNAL")
    signal.add_argument("value", metavar="VALUE")
    signal.add_argument(
        "--early", action="store_true", help="send it even if the job waits for another signal"
    )
    read = add_command(
        group, "read", "Print a job's stream while the job emits it, until the job ends.", _read,
        examples=("firelock jobs read 01a21072-9d46-7c87-a484-8087cf5d557e",),
    )  # fmt: skip
    read.add_argument("--stream", default="out", metavar="NAME", help="name of the stream (default: out)")
    for command in (steps, read):
        command.add_argument("id", metavar="ID")


def _steps(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        steps = app.jobs.get(options.id).steps()
        now = app.client.clock.now()
    screen.listing(
        "steps", map(_json, steps), _COLUMNS, [_row(step, now) for step in steps],
        empty="The job has no stored steps.",
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
    name = step.name if step.is_done else Cell(f"{step.name} (in progress)", "yellow")
    return [name, str(step.kind), took, age(micros(step.at), now), step.author, Cell(value, "bright_black")]


def _until(step: Step) -> int | None:
    """Return when a sleep or a wait for a signal ends, in microseconds; None if it has no time limit."""
    is_wait = step.kind is MemoKind.SLEEP or (step.kind is MemoKind.SIGNAL and not step.is_done)
    return int(step.value) if is_wait and step.value and step.value.isdecimal() else None


def micros_of(step: Step) -> int:
    """Return the duration of the step, in microseconds."""
    return 0 if step.took is None else int(step.took.total_seconds() * 1_000_000)


def _json(step: Step) -> dict[str, object]:
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
            f"VALUE must be JSON, got {options.value!r}: {error}.",
            hint="""Use double quotes for a string: '"yes"'.""",
        ) from error
    with connected(options) as app:
        job, declared = app.storage.get([options.id])[0], app.signal_named(options.name)
        why = why_not_answered(job, options.name, options.value, declared, is_early=options.early)
        if why is not None:
            raise Problem(why, hint="Nothing was sent. Add --early if the job waits for this signal later.")
        new = answer(options.id, options.name, options.value, at=app.client.clock.now(), author=user_name())
        stored = app.storage.remember([new])[0]
        if stored.answer.is_applied:
            record_change(app, "signal.send", options.id, signal=options.name)
    if stored.answer is Applied.MISSING:
        raise Problem(f"Job {options.id} was not found.", code=Exit.NOT_FOUND)
    if stored.answer is Applied.REFUSED:
        raise Problem(
            f"Job {options.id} cannot receive a signal: it has ended, or it cannot store more values.",
            hint="Run firelock jobs show to see its state.",
        )
    is_first = stored.answer.is_applied
    if screen.is_json:
        screen.json({"id": options.id, "signal": options.name, "is_first": is_first})
    else:
        result = Cell("sent", "green") if is_first else Cell("too late: another value was first", "yellow")
        screen.line(options.name, "  ", result)
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
                screen.note("\nAnother run continues; an interrupted step emits its output again.")
            run = chunk.run
            sys.stdout.write(chunk.data if not sys.stdout.isatty() else _printable(chunk.data))
            sys.stdout.flush()
    if screen.is_json:
        screen.json({"chunks": chunks})


def _printable(text: str) -> str:
    """Return the text without characters that a terminal would treat as control sequences."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
