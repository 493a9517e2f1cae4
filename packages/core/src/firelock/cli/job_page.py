"""`firelock jobs show`: everything that is stored of one job."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from firelock.cli.screen import Cell, Column, Piece, Screen, state_cell
from firelock.cli.source import connected
from firelock.cli.text import age, clock_time, span, visible_lines

if TYPE_CHECKING:
    from firelock.job import Job
    from firelock.values import Attempt, HistoryEntry, JobRecord, LogLine, Progress

__all__ = ["show_job"]

_LOG_LINES, _CHILDREN = 1_000, 50
_HISTORY = (Column("AT"), Column("STATE"), Column("ATTEMPT", is_number=True), Column("RAN"), Column("REASON"))


def show_job(options: argparse.Namespace, screen: Screen) -> int:
    """The job is shown; its newest traceback in full, former failures by a line."""
    from firelock.cli.answers import answer_of, job_answer  # noqa: PLC0415 - loaded with an app only
    from firelock.storage import JobFilter  # noqa: PLC0415

    with connected(options) as app:
        job = app.jobs.get(options.id)
        now = app.client.clock.now()
        children = list(app.jobs.page(JobFilter(parent_id=job.id), limit=_CHILDREN, oldest_first=True))
        storage = app.storage
        history, errors, progress = (
            storage.history(job.id),
            storage.errors(job.id),
            storage.get_progress([job.id])[0],
        )
        log = storage.read_log(job.id, limit=_LOG_LINES)
    if screen.is_json:
        screen.json({
            **job_answer(job.record()),
            "history": answer_of(history), "errors": answer_of(errors), "log": answer_of(log),
            "progress": answer_of(progress), "continuations": [child.id for child in children],
        })  # fmt: skip
        return 0
    record = job.record()
    screen.line(Cell(f"Job {record.id}", "bold"), "  ", state_cell(record.state))
    screen.facts([*_what(record), *_when(record, now), *_end(record, progress, children)], indent=2)
    _show_history(screen, history)
    _show_errors(screen, errors)
    _show_log(screen, log)
    return 0


def _what(record: JobRecord) -> list[tuple[str, Piece]]:
    queue = record.queue if not record.priority else f"{record.queue}, priority {record.priority}"
    return [
        ("task", record.task),
        ("arguments", record.arguments),
        ("serializer", record.serializer if record.serializer != "json" else ""),
        ("queue", queue),
        ("tags", ", ".join(record.tags)),
        ("recurring", record.recurring_id or ""),
        ("timeout", f"{record.timeout_seconds:g} s" if record.timeout_seconds else ""),
        ("reason", record.reason or ""),
    ]


def _when(record: JobRecord, now: int) -> list[tuple[str, Piece]]:
    instants = (
        ("created", record.created_at),
        ("due", record.due_at),
        ("enqueued", record.enqueued_at),
        ("claimed", record.claimed_at),
        ("started", record.started_at),
        ("ended", record.ended_at),
        ("kept until", record.expires_at),
    )
    return [(name, f"{clock_time(at)}, {age(at, now)}" if at else "") for name, at in instants]


def _end(
    record: JobRecord, progress: Progress | None, children: Sequence[Job[object]]
) -> list[tuple[str, Piece]]:
    counts = f"{record.attempt}, {record.retries} retries, {record.crashes} crashes" if record.attempt else ""
    return [
        ("attempt", counts),
        ("server", record.server or ""),
        ("progress", _progress(progress)),
        ("result", record.result or record.result_absent or ""),
        ("error", Cell(f"{record.error.type}: {record.error.message}", "red") if record.error else ""),
        ("runs after", ", ".join(f"{edge.parent_id} ({edge.on})" for edge in record.parents)),
        ("then", ", ".join(f"{child.id} ({child.state})" for child in children)),
    ]


def _progress(progress: Progress | None) -> str:
    if progress is None:
        return ""
    said = f": {progress.message}" if progress.message else ""
    return f"{progress.done:g} of {progress.total:g}{said}"


def _show_history(screen: Screen, history: Sequence[HistoryEntry]) -> None:
    screen.line()
    screen.line(Cell("History", "bold"))
    screen.table(_HISTORY, [_history_row(entry) for entry in history])


def _history_row(entry: HistoryEntry) -> list[Piece]:
    if entry.elided:
        return [clock_time(entry.at), "…", "", "", f"{entry.elided} steps are left out"]
    ran = span(entry.at - entry.started_at) if entry.started_at else ""
    return [clock_time(entry.at), state_cell(entry.state), entry.attempt or "", ran, entry.reason or ""]


def _show_errors(screen: Screen, errors: Sequence[Attempt]) -> None:
    if not errors:
        return
    screen.line()
    screen.line(Cell("Failed attempts", "bold"))
    for failed in errors:
        said = f"{failed.error.type}: {failed.error.message}"
        screen.line(f"  {failed.attempt}  {clock_time(failed.at)}  ", Cell(said, "red"))
    for line in visible_lines((errors[-1].error.traceback or "").rstrip()):
        screen.line("     ", Cell(line, "bright_black"))


def _show_log(screen: Screen, log: Sequence[LogLine]) -> None:
    if not log:
        return
    screen.line()
    screen.line(Cell("Log", "bold"))
    for line in log:
        for text in visible_lines(line.text):
            screen.line(f"  {clock_time(line.at)}  {line.level:<8}", text)
