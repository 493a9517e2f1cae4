"""`firelock jobs`: list, show and change jobs."""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs

from firelock.cli.commands import (
    Exit,
    Problem,
    add_command,
    add_group,
    add_paging,
    add_reason,
    reason_of,
    record_change,
    whole,
)
from firelock.cli.job_failures import add_failures_command
from firelock.cli.job_steps import add_step_commands
from firelock.cli.json_output import job_json, json_value, shown_arguments
from firelock.cli.screen import Cell, Column, Piece, Screen, state_cell, visible_lines
from firelock.cli.source import connected
from firelock.errors import StorageError
from firelock.model.clock import micros
from firelock.model.lifecycle import WAITING
from firelock.model.state import State
from firelock.model.text import age, clock_time, number_of, shorten, span
from firelock.options import check_priority
from firelock.storage import Applied, JobFilter, PartlyApplied

if TYPE_CHECKING:
    from firelock.app import Firelock
    from firelock.arguments.serializer import JsonValue
    from firelock.cli.commands import Commands
    from firelock.jobs.job import Job
    from firelock.model.job import FailedAttempt, HistoryEntry, JobRecord, LogLine, Progress

    _Apply = Callable[[Sequence[str]], list[Applied]]

_STATES = (
    State.ENQUEUED, State.PROCESSING, State.SCHEDULED, State.AWAITING, State.FAILED, State.SUCCEEDED,
    State.DELETED,
)  # fmt: skip
_COLUMNS = (
    Column("ID", is_whole=True),
    Column("STATE", is_whole=True),
    Column("TASK"),
    Column("QUEUE"),
    Column("CHANGED", is_whole=True),
    Column("NOTE"),
)
_NOTE_LIMIT = 200
_FIRST = 10  # maximum number of ids stored in an entry of the audit


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the group's commands to the parser."""
    group = add_group(parser)
    listing = add_command(
        group, "list", "List jobs, newest first.", _list,
        examples=(
            "firelock jobs list --state failed --since 2h",
            "firelock jobs list --task shop.send_mail --limit 100 --json",
        ),
    )  # fmt: skip
    _add_filters(listing)
    add_paging(listing)
    listing.add_argument("--oldest-first", action="store_true", help="list the oldest jobs first")
    show = add_command(
        group, "show", "Show one job: its arguments, errors, history and log.", _show,
        examples=("firelock jobs show 01a21072-9d46-7c87-a484-8087cf5d557e",),
    )  # fmt: skip
    show.add_argument("id", metavar="ID")
    add_command(group, "counts", "Count the jobs in each state.", _counts)
    add_failures_command(group)
    _add_changes(group)
    add_step_commands(group)


def _add_changes(group: Commands) -> None:
    requeue = add_command(
        group, "requeue", "Run jobs again, with all their retries.", _change_jobs,
        more="With --all, the filters select the jobs; without --state, only failed jobs are requeued.",
        examples=(
            "firelock jobs requeue 01a21072-9d46-7c87-a484-8087cf5d557e",
            "firelock jobs requeue --all --task shop.send_mail --since 1d",
        ),
    )  # fmt: skip
    delete = add_command(
        group, "delete", "Delete jobs; running jobs are cancelled.", _change_jobs,
        more="With --all, the filters select the jobs; at least one filter is required.",
        examples=(
            "firelock jobs delete 01a21072-9d46-7c87-a484-8087cf5d557e",
            "firelock jobs delete --all --state scheduled --tag eu --dry-run",
        ),
    )  # fmt: skip
    restore = add_command(
        group, "restore", "Return deleted jobs to their previous state.", _change_jobs,
        more="Jobs that were scheduled, enqueued or failed are restored. Jobs that were running, had "
        "succeeded,\nwaited for another job or had continuations stay deleted.",
        examples=(
            "firelock jobs restore 01a21072-9d46-7c87-a484-8087cf5d557e",
            "firelock jobs restore --all --task shop.send_mail --since 1h",
        ),
    )  # fmt: skip
    move = add_command(
        group, "move", "Move waiting jobs to another queue, or change their priority.", _change_jobs,
        more="Awaiting, scheduled and enqueued jobs are moved; they keep their id, age and history.\n"
        "Processing and ended jobs are not changed. With --all, the filters select the jobs.",
        examples=(
            "firelock jobs move 01a21072-9d46-7c87-a484-8087cf5d557e --to-priority 10",
            "firelock jobs move --all --queue default --task shop.import --to-queue bulk",
        ),
    )  # fmt: skip
    move.add_argument("--to-queue", metavar="NAME", help="new queue")
    move.add_argument("--to-priority", metavar="N", type=_priority, help="new priority, from -100 to 100")
    requeue.add_argument(
        "--from", dest="from_step", metavar="STEP", help="for one job: run this step and all later ones again"
    )
    for parser, change in ((requeue, _REQUEUE), (delete, _DELETE), (restore, _RESTORE), (move, _MOVE)):
        parser.set_defaults(change=change, expect=None)
        add_reason(parser)
        _add_choice(parser, can_expect=change is not _RESTORE)


def _priority(text: str) -> int:
    try:
        return check_priority(int(text))
    except ValueError as error:  # ConfigurationError is a ValueError
        raise argparse.ArgumentTypeError(f"must be an integer from -100 to 100, got {text!r}") from error


def _add_choice(parser: argparse.ArgumentParser, *, can_expect: bool) -> None:
    parser.add_argument("ids", metavar="ID", nargs="*")
    parser.add_argument("--all", action="store_true", dest="is_all", help="all jobs that match the filters")
    parser.add_argument("--dry-run", action="store_true", help="with --all: only count the jobs")
    if can_expect:
        parser.add_argument(
            "--expect", metavar="N", type=whole(),
            help="with --all: maximum number; required above 1,000, or if any job succeeded or was deleted",
        )  # fmt: skip
    _add_filters(parser)


# ---- list ------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        now = app.client.clock.now()
        page = app.jobs.page(
            _filter_of(options, now), limit=options.limit, cursor=options.cursor,
            oldest_first=options.oldest_first,
        )  # fmt: skip
    records = [job.record() for job in page.jobs]
    screen.listing(
        "jobs", map(job_json, records), _COLUMNS, (_row(record, now) for record in records),
        empty="No jobs match.", cursor=page.cursor,
    )  # fmt: skip
    if page.cursor is not None and not screen.is_json:
        screen.note(f"There are more jobs; use --cursor {page.cursor} for the next page.")


def _row(record: JobRecord, now: int) -> list[Piece]:
    return [
        record.id,
        state_cell(record.state),
        record.task,
        record.queue,
        age(record.changed_at or record.created_at, now),
        Cell(shorten(_note(record, now), _NOTE_LIMIT), "bright_black"),
    ]


def _note(record: JobRecord, now: int) -> str:
    if record.state == "failed" and record.error is not None:
        return f"{record.error.type}: {' '.join(record.error.message.split())}"
    if record.is_stopping:
        return f"stopping on {record.server}"
    if record.state == "scheduled":
        retry = f"retry {record.retries}, " if record.is_retrying else ""
        return f"{retry}due {age(record.due_at, now)}"
    if record.state == "processing":
        return f"{'on' if record.started_at else 'claimed by'} {record.server}, attempt {record.attempt}"
    if record.state == "enqueued" and not record.reason and record.admission is not None:
        keys = [use.key for use in record.admission.limits]
        return f"needs {', '.join(keys)}" if keys else ""
    return record.reason or ""


# ---- counts ----------------------------------------------------------------------------------------------


def _counts(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        counts = app.jobs.counts()
    if screen.is_json:
        screen.json(
            {"by_state": {state: counts.by_state[state] for state in _STATES}, "by_queue": counts.by_queue}
        )
    else:
        rows: list[list[Piece]] = [[state_cell(state), counts.by_state[state]] for state in _STATES]
        screen.table((Column("STATE"), Column("JOBS", is_number=True)), rows)


# ---- show ----------------------------------------------------------------------------------------------


_LOG_LINES, _CHILDREN, _SERVERS = 1_000, 50, 5
_HISTORY = (Column("AT"), Column("STATE"), Column("ATTEMPT", is_number=True), Column("RAN"), Column("REASON"))


def _show(options: argparse.Namespace, screen: Screen) -> None:
    """Show the job, with its newest traceback in full and one line per earlier failure."""
    with connected(options) as app:
        job = app.jobs.get(options.id)
        if job.limits:
            job.refresh()  # reads why the job is waiting
        now = app.client.clock.now()
        children = list(app.jobs.page(JobFilter(parent_id=job.id), limit=_CHILDREN, oldest_first=True))
        waits_for = "; ".join(_waits(app, job, now))
        storage = app.storage
        history, progress = storage.history(job.id), job.record().progress
        log = storage.read_log(job.id, limit=_LOG_LINES)
    if screen.is_json:
        screen.json({
            **job_json(job.record()),
            "history": json_value(history.entries), "errors": json_value(history.errors),
            "log": json_value(log), "progress": json_value(progress),
            "continuations": [child.id for child in children],
            "waits_for": waits_for or None,
        })  # fmt: skip
        return
    record = job.record()
    stopping = f", stopping on {record.server}" if record.is_stopping else ""
    screen.line(Cell(f"Job {record.id}", "bold"), "  ", state_cell(record.state), stopping)
    failed = history.errors[-1].attempt if history.errors else None
    end = _end_facts(record, progress, children, failed)
    facts = [
        *_task_facts(record), ("waits for", Cell(waits_for, "yellow")), *_admission_facts(job, now),
        *_time_facts(record, now), *end,
    ]  # fmt: skip
    screen.facts(facts, indent=2)
    _show_history(screen, history.entries)
    _show_errors(screen, history.errors)
    _show_log(screen, log)


def _waits(app: Firelock, job: Job[object], now: int) -> Iterator[str]:
    """Yield what the job waits for: a limit, a signal or step, its queue to be resumed, or a server."""
    if job.waits_for:
        yield job.waits_for
    record = job.record()
    if record.state is not State.ENQUEUED:
        return
    paused = next((one for one in app.queues.list() if one.name == record.queue and one.is_paused), None)
    if paused is not None:
        note = f" ({paused.note})" if paused.note else ""
        yield f"a resume of queue {record.queue}, which is paused{note}"
    servers = [server for server in app.servers.list() if not server.state_at(now).is_gone]
    listening = [server for server in servers if server.listens_to(record.queue)]
    if not servers:
        yield "a server; none is running"
    elif not listening:
        others = ", ".join(f"{server.name} ({server.queues})" for server in servers[:_SERVERS])
        yield f"a server for queue {record.queue}; the running servers have other queues: {others}"
    elif not any(server.state_at(now).is_listening for server in listening):
        quiet = ", ".join(server.name for server in listening[:_SERVERS])
        yield f"a server for queue {record.queue}; those that are running are quiet: {quiet}"


def _task_facts(record: JobRecord) -> list[tuple[str, Piece]]:
    queue = record.queue if not record.priority else f"{record.queue}, priority {record.priority}"
    return [
        ("task", record.task),
        ("arguments", _arguments(record)),
        ("serializer", record.serializer if record.serializer != "json" else ""),
        ("queue", queue),
        ("tags", ", ".join(record.tags)),
        ("meta", ", ".join(f"{name}={text}" for name, text in record.meta.items())),
        ("recurring", record.recurring_id or ""),
        ("timeout", f"{record.timeout_seconds:g} s" if record.timeout_seconds else ""),
        ("reason", record.reason or ""),
    ]


def _arguments(record: JobRecord) -> str:
    """Return the arguments as stored, with the names of outputs that other jobs supply."""
    if record.relations is None or not record.relations.inputs:
        return record.arguments
    return json.dumps(shown_arguments(record), ensure_ascii=False, separators=(",", ":"))


def _admission_facts(job: Job[object], now: int) -> list[tuple[str, Piece]]:
    """Return the limits, unique key and start deadline of a job."""
    admission = job.record().admission
    costs = [] if admission is None else [
        use.key + (f" (cost {use.cost:,})" if use.cost != 1 else "") + (" strict" if use.is_strict else "")
        for use in admission.limits
    ]  # fmt: skip
    before = None if job.start_before is None else micros(job.start_before)
    return [
        ("limits", ", ".join(costs)),
        ("unique key", job.unique_key or ""),
        ("start before", f"{clock_time(before)}, {age(before, now)}" if before is not None else ""),
    ]


def _time_facts(record: JobRecord, now: int) -> list[tuple[str, Piece]]:
    times = (
        ("created", record.created_at),
        ("due", record.due_at),
        ("enqueued", record.enqueued_at),
        ("claimed", record.claimed_at),
        ("started", record.started_at),
        ("ended", record.ended_at),
        ("kept until", record.expires_at),
    )
    return [(name, f"{clock_time(at)}, {age(at, now)}" if at else "") for name, at in times]


def _end_facts(
    record: JobRecord, progress: Progress | None, children: Sequence[Job[object]], failed_attempt: int | None
) -> list[tuple[str, Piece]]:
    """Return the job's progress and outcome; an error that did not fail the job is labelled by attempt."""
    attempt = "" if failed_attempt is None else f" (attempt {failed_attempt})"
    error = "error" if record.state is State.FAILED else f"last error{attempt}"
    retries = number_of(record.retries, "retry", "retries")
    crashes = number_of(record.crashes, "crash", "crashes")
    return [
        ("attempt", f"{record.attempt}, {retries}, {crashes}" if record.attempt else ""),
        ("server", record.server or ""),
        ("progress", _progress(progress)),
        ("result", record.result or record.result_absent or ""),
        (error, Cell(f"{record.error.type}: {record.error.message}", "red") if record.error else ""),
        ("fingerprint", record.error.fingerprint if record.error else ""),
        ("runs after", ", ".join(f"{edge.parent_id} ({edge.on})" for edge in record.parents)),
        ("then", ", ".join(f"{child.id} ({child.state})" for child in children)),
    ]


def _progress(progress: Progress | None) -> str:
    if progress is None:
        return ""
    message = f": {progress.message}" if progress.message else ""
    return f"{progress.done:g} of {progress.total:g}{message}"


def _show_history(screen: Screen, history: Sequence[HistoryEntry]) -> None:
    screen.heading("History")
    screen.table(_HISTORY, [_history_row(entry) for entry in history])


def _history_row(entry: HistoryEntry) -> list[Piece]:
    if entry.elided:
        entries = "1 entry is" if entry.elided == 1 else f"{entry.elided:,} entries are"
        return [clock_time(entry.at), "…", "", "", f"{entries} omitted"]
    ran = span(entry.at - entry.started_at) if entry.started_at else ""
    return [clock_time(entry.at), state_cell(entry.state), entry.attempt or "", ran, entry.reason or ""]


def _show_errors(screen: Screen, errors: Sequence[FailedAttempt]) -> None:
    if not errors:
        return
    screen.heading("Failed attempts")
    for failed in errors:
        error = f"{failed.error.type}: {failed.error.message}"
        screen.line(f"  {failed.attempt}  {clock_time(failed.at)}  ", Cell(error, "red"))
    for line in visible_lines((errors[-1].error.traceback or "").rstrip()):
        screen.line("     ", Cell(line, "bright_black"))


def _show_log(screen: Screen, log: Sequence[LogLine]) -> None:
    if not log:
        return
    screen.heading("Log")
    for line in log:
        for text in visible_lines(line.text):
            screen.line(f"  {clock_time(line.at)}  {line.level:<8}", text)


# ---- change --------------------------------------------------------------------------------------------


_PAGE = 500
_MANY = 1_000
_ENDED = frozenset({State.SUCCEEDED, State.DELETED})


@attrs.frozen
class _Change:
    """A kind of change, with the words for its messages."""

    verb: str  # the method of `app.jobs`
    done: str  # the past participle of the verb
    states: frozenset[State]  # states of the jobs that the change applies to
    default_state: State | None = None  # the state that --all selects if --state is not given


_REQUEUE = _Change("requeue", "requeued", frozenset(State) - {State.ENQUEUED, State.PROCESSING}, State.FAILED)
_DELETE = _Change("delete", "deleted", frozenset(State) - {State.DELETED})
_MOVE = _Change("move", "moved", WAITING)
_RESTORE = _Change("restore", "restored", frozenset(State), State.DELETED)


def _change_jobs(options: argparse.Namespace, screen: Screen) -> int:
    """Change jobs: those with the given ids, or all that match the filters."""
    change: _Change = options.change
    if getattr(options, "from_step", None) is not None:
        return _requeue_from(options, screen)
    if options.is_all and options.state is None and (change is _REQUEUE or _has_filters(options)):
        options.state = change.default_state  # succeeded jobs run again only if --state selects them
    _check(options, change)

    with connected(options) as app:

        def apply(ids: Sequence[str]) -> list[Applied]:
            verb: Callable[..., list[Applied]] = getattr(app.jobs, change.verb)
            target = {"queue": options.to_queue, "priority": options.to_priority} if change is _MOVE else {}
            return verb(ids, reason=reason_of(options, change.done), **target)

        if options.is_all:
            return _change_all(app, options, screen, apply)
        return _change_some(app, options, screen, apply)


def _requeue_from(options: argparse.Namespace, screen: Screen) -> int:
    """Requeue one job from a step; remove this step and everything that the job has recorded since then."""
    if options.is_all or len(options.ids) != 1:
        raise Problem(
            "firelock jobs requeue --from needs exactly one job id.",
            hint="Run firelock jobs steps to list the job's steps.",
        )
    with connected(options) as app:
        job = app.jobs.get(options.ids[0])

        def requeue(job_id: str) -> None:
            job.requeue(from_step=options.from_step, reason=reason_of(options, "requeued"))
            record_change(app, "job.requeue", job_id, step=options.from_step, reason=options.reason)

        screen.each([job.id], "requeued", requeue)
    return Exit.DONE


def _check(options: argparse.Namespace, change: _Change) -> None:
    command = f"firelock jobs {change.verb}"
    if change is _MOVE and options.to_queue is None and options.to_priority is None:
        raise Problem(f"{command} needs a target.", hint="Add --to-queue NAME, --to-priority N or both.")
    if options.is_all and options.ids:
        raise Problem(f"{command} accepts ids or --all, not both.", hint="Remove one of them.")
    if options.is_all and not _has_filters(options):
        raise Problem(
            f"{command} --all needs a filter.",
            hint="Add one, for example --state failed or --queue mail.",
        )
    if not options.is_all and not options.ids:
        raise Problem(
            f"{command} needs job ids or --all.",
            hint="Pass ids, or --all with a filter, for example --all --state failed.",
        )
    given = _has_filters(options) or options.dry_run or options.expect
    if not options.is_all and given:
        raise Problem(
            f"{command} accepts filters, --dry-run and --expect only with --all.",
            hint="Use --all instead of the ids.",
        )
    if change is _RESTORE and options.state not in {None, State.DELETED}:
        raise Problem(
            f"firelock jobs restore accepts only deleted jobs, got --state {options.state}.",
            hint="Remove --state.",
        )


def _change_some(app: Firelock, options: argparse.Namespace, screen: Screen, apply: _Apply) -> int:
    change, ids = options.change, list(dict.fromkeys(options.ids))
    try:
        results = apply(ids)
    except PartlyApplied as error:  # shows the results so far, without calling the storage again
        _show_results(screen, change, ids, error.results, {})
        raise
    left = [job_id for job_id, result in zip(ids, results, strict=True) if not result.is_applied]
    reasons = _reasons(app, change, left)
    if not screen.is_json:
        stored = {record.id: record for record in app.storage.get(left) if record is not None}
        reasons = {job_id: f"it is {record.state}" for job_id, record in stored.items()} | reasons
    taken = [job_id for job_id, result in zip(ids, results, strict=True) if result is Applied.TAKEN]
    reasons |= dict.fromkeys(taken, "another job has its unique key")
    _show_results(screen, change, ids, results, reasons)
    counted = Counter(map(_word, results))
    _record(app, options, ids[0] if len(ids) == 1 else "", counted, ids=list(ids[:_FIRST]))
    if Applied.MISSING in results:
        return Exit.NOT_FOUND
    return Exit.FAILED if left else Exit.DONE


def _show_results(
    screen: Screen, change: _Change, ids: Sequence[str], results: Sequence[Applied | None],
    reasons: Mapping[str, str],
) -> None:  # fmt: skip
    """Print the result for each job; None means that the result is unknown."""
    pairs = list(zip(ids, results, strict=True))
    if screen.is_json:
        screen.json({
            "results": [
                {"id": job_id, "result": _word(result)}
                | ({"why": reasons[job_id]} if job_id in reasons else {})
                for job_id, result in pairs
            ]
        })  # fmt: skip
        return
    for job_id, result in pairs:
        if result is None:
            outcome = Cell("unknown: check this job again", "red")
        elif result is Applied.MISSING:
            outcome = Cell("not found", "red")
        elif result.is_applied:
            outcome = Cell(change.done, "green")
        else:
            outcome = Cell(f"not {change.done}: {reasons.get(job_id, _word(result))}", "yellow")
        screen.line(job_id, "  ", outcome)


def _word(result: Applied | None) -> str:
    if result is None:
        return "unknown"
    return "done" if result.is_applied else str(result)


def _reasons(app: Firelock, change: _Change, ids: Sequence[str]) -> dict[str, str]:
    """Return the reasons why jobs cannot be restored, moved or requeued; empty for a deletion."""
    if change is _DELETE or not ids:
        return {}
    why_not = {
        _RESTORE: app.jobs.why_not_restored, _MOVE: app.jobs.why_not_moved,
    }.get(change, app.jobs.why_not_requeued)  # fmt: skip
    reasons = zip(ids, why_not(ids), strict=True)
    return {job_id: reason for job_id, reason in reasons if reason is not None}


def _change_all(app: Firelock, options: argparse.Namespace, screen: Screen, apply: _Apply) -> int:
    change, now = options.change, app.client.clock.now()
    where = _filter_of(options, now)
    if where.until is None:
        where = attrs.evolve(where, until=now + 1)  # excludes jobs that reach the state later
    if change is not _RESTORE and not options.dry_run:
        _check_number(app, where, options, change)
    counted: Counter[str] = Counter(done=0, refused=0, missing=0)
    try:
        for page in _found(app, where):
            ids = [record.id for record in page if _is_selected(record, change)]
            if batches := sum(change is _REQUEUE and record.is_batch for record in page):
                counted["batches"] += batches
            if options.dry_run:
                refused = len(_reasons(app, change, ids))
                counted.update(done=len(ids) - refused, refused=refused)
            elif ids:
                counted.update(map(_word, apply(ids)))
            screen.progress(f"{change.done}: {counted['done']:,}")
    except StorageError:
        screen.end_progress()
        if counted.total():  # the command ends with an error, but the changes so far remain
            _report(screen, change, counted, is_dry=options.dry_run)
        raise
    screen.end_progress()
    _report(screen, change, counted, is_dry=options.dry_run)
    if not options.dry_run:
        names = (*_TEXTS, "since", "until")
        given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
        _record(app, options, "", counted, where={name: str(value) for name, value in given.items()})
    return Exit.DONE


_LEFT = (Applied.REFUSED, Applied.TAKEN, Applied.BUSY)


def _record(
    app: Firelock, options: argparse.Namespace, target: str, counted: Counter[str], **detail: JsonValue
) -> None:
    """Record the change in the audit with the dashboard's names; record nothing if no job changed."""
    done, change = counted["done"], options.change
    if not done:
        return
    if change is _MOVE:
        detail |= {"queue": options.to_queue, "priority": options.to_priority}
    record_change(
        app, f"jobs.{change.verb}", target or number_of(done, "job"), count=done,
        skipped=sum(counted[word] for word in _LEFT), missing=counted["missing"],
        reason=options.reason, **detail,
    )  # fmt: skip


def _check_number(app: Firelock, where: JobFilter, options: argparse.Namespace, change: _Change) -> None:
    """Check that the user has confirmed the number of jobs if there are many, or if some have ended.

    `--expect` confirms the number. Confirmation is needed for more than 1,000 jobs, and if any job has
    succeeded or was deleted.

    Raises:
        Problem: If the number is not confirmed, or there are more jobs than confirmed.
    """
    most = _MANY if options.expect is None else options.expect
    counted, has_ended = 0, False
    for page in _found(app, where):
        selected = [record.state for record in page if _is_selected(record, change)]
        counted += len(selected)
        has_ended = has_ended or not _ENDED.isdisjoint(selected)
        if counted > most:
            raise Problem(
                f"More than {most:,} jobs would be {change.done}; no job was changed.",
                hint="Use --dry-run to count them, then pass --expect with their number.",
            )  # fmt: skip
    if has_ended and options.expect is None:
        some = "The job has" if counted == 1 else f"Some of the {counted:,} jobs have"
        raise Problem(
            f"{some} succeeded or been deleted; no job was changed.",
            hint=f"Use --state failed, or --expect {counted} to include them.",
        )  # fmt: skip


def _is_selected(record: JobRecord, change: _Change) -> bool:
    return record.state in change.states and not (change in {_REQUEUE, _MOVE} and record.is_batch)


def _found(app: Firelock, where: JobFilter) -> Iterator[Sequence[JobRecord]]:
    page = app.storage.find(where, limit=_PAGE)
    yield page.jobs
    while page.cursor is not None:
        page = app.storage.find(where, limit=_PAGE, cursor=page.cursor)
        yield page.jobs


def _report(screen: Screen, change: _Change, counted: Counter[str], *, is_dry: bool) -> None:
    if screen.is_json:
        screen.json({"is_dry_run": is_dry, **counted})
        return
    if counted["batches"]:
        screen.line(f"{counted['batches']:,} skipped: a batch itself does not run, only its members do.")
    jobs = number_of(counted["done"], "job")
    if is_dry:
        screen.line(f"{jobs} would be {change.done}.")
        if counted["refused"]:
            screen.line(f"{counted['refused']:,} would not be changed.")
        return
    screen.line(f"{jobs} {change.done}.")
    if counted["refused"]:
        were, their = ("was", "its") if counted["refused"] == 1 else ("were", "their")
        why = "" if change is _RESTORE else f": {their} state has changed"
        screen.line(f"{counted['refused']:,} {were} not changed{why}.")


# ---- filters -------------------------------------------------------------------------------------------


_TEXTS = ("state", "task", "queue", "tag", "server", "recurring", "fingerprint")
_AGO = re.compile(r"(\d{1,6})([smhd])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the filters to the parser; jobs must match all filters that are given."""
    group = parser.add_argument_group("filters")
    group.add_argument("--state", choices=[*State], metavar="STATE", help=", ".join(State))
    group.add_argument("--task", metavar="NAME", help="task, for example shop.send_mail")
    group.add_argument("--queue", metavar="NAME", help="queue")
    group.add_argument("--tag", metavar="TAG", help="one of the job's tags, in full")
    group.add_argument("--server", metavar="NAME", help="server that claimed the job last")
    group.add_argument("--recurring", metavar="ID", help="recurring job that created the job")
    group.add_argument("--fingerprint", metavar="TEXT", help="fingerprint of the job's last error")
    times = "ISO 8601 (UTC unless it has an offset), or a duration before now: 30m, 2h, 7d"
    group.add_argument(
        "--since",
        metavar="TIME",
        help=f"earliest time of the jobs' last change, or of their creation without --state: {times}",
    )
    group.add_argument("--until", metavar="TIME", help="end of the period, excluded; as for --since")


def _has_filters(options: argparse.Namespace) -> bool:
    """Return whether any filter is given."""
    return any(getattr(options, name) is not None for name in (*_TEXTS, "since", "until"))


def _filter_of(options: argparse.Namespace, now: int) -> JobFilter:
    """Return the filter from the options; `now` is the storage's time.

    Raises:
        Problem: If a time cannot be read.
    """
    return JobFilter(
        state=None if options.state is None else State(options.state),
        task=options.task,
        queue=options.queue,
        tag=options.tag,
        server=options.server,
        recurring_id=options.recurring,
        fingerprint=options.fingerprint,
        since=_time("--since", options.since, now),
        until=_time("--until", options.until, now),
    )


def _time(option: str, text: str | None, now: int) -> int | None:
    if text is None:
        return None
    if ago := _AGO.match(text):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}) // timedelta(microseconds=1)
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise Problem(
            f"{option} must be a time or a duration, got {text!r}.",
            hint="Use 2026-11-25, 2026-11-25T14:30, 2026-11-25T14:30+03:00, or 30m, 2h, 7d.",
        ) from error
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)
