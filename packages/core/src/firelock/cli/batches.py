"""`firelock batches`: list and show batches; cancel them, or requeue their failed members."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import attrs

from firelock.cli.commands import add_command, add_group, add_paging, add_reason, reason_of, record_change
from firelock.cli.screen import Cell, Column, Piece, Screen, state_cell
from firelock.cli.source import connected
from firelock.model.state import State
from firelock.model.text import age, clock_time, number_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firelock.flows.batch import Batch
    from firelock.jobs.job import Job, JobPage
    from firelock.model.batch import BatchCounts, DeepBatchCounts
    from firelock.model.job import JobRecord
    from firelock.storage import Storage

_COLUMNS = (
    Column("ID", is_whole=True),
    Column("STATE", is_whole=True),
    Column("NAME"),
    Column("ENDED", is_number=True),
    Column("BATCHES", is_number=True),
    Column("FAILED", is_number=True),
    Column("ACTIVE", is_number=True),
    Column("WAITING", is_number=True),
    Column("CREATED", is_whole=True),
)
_WITHIN_COLUMN = Column("WITHIN")  # the name of the outer batch; shown only on a page with inner batches
_MEMBERS = (Column("ID", is_whole=True), Column("STATE", is_whole=True), Column("TASK"), Column("REASON"))
_SHOWN, _MAX_PAGES = 20, 5
_WITHIN = 1_000  # maximum number of inner batches that are read for the counts of a batch


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the group's commands to the parser."""
    group = add_group(parser)
    listing = add_command(
        group, "list", "List batches, newest first, with the progress of their own members.", _list,
        examples=("firelock batches list", "firelock batches list --state failed --json"),
    )  # fmt: skip
    listing.add_argument(
        "--state", choices=("open", "succeeded", "failed", "deleted"), help="only batches in this state"
    )
    add_paging(listing)
    show = add_command(
        group, "show",
        "Show a batch: its progress, with and without inner batches, and its first failed members.",
        _show,
        examples=("firelock batches show 01a21072-9d46-7c87-a484-8087cf5d557e",),
    )  # fmt: skip
    cancel = add_command(
        group,
        "cancel",
        "Cancel batches permanently: delete their waiting jobs and cancel the running ones.",
        _cancel,
    )
    requeue = add_command(
        group, "requeue", "Run the failed members of batches again, including those of inner batches.",
        _requeue,
    )  # fmt: skip
    show.add_argument("id", metavar="ID")
    for command in (cancel, requeue):
        command.add_argument("ids", metavar="ID", nargs="+")
        add_reason(command)


def _list(options: argparse.Namespace, screen: Screen) -> None:
    state = State.AWAITING if options.state == "open" else options.state
    with connected(options) as app:
        page = app.batches.list(state=state, limit=options.limit, cursor=options.cursor)
        all_counts = app.storage.batch_counts([batch.id for batch in page.batches])
        outer = _outer_names(app.storage, page.batches)
        now = app.client.clock.now()
    pairs = [
        (batch, counts) for batch, counts in zip(page.batches, all_counts, strict=True) if counts is not None
    ]
    rows = [_row(batch, counts, now) for batch, counts in pairs]
    if outer:
        rows = [[*row, outer.get(batch.id, "")] for row, (batch, _) in zip(rows, pairs, strict=True)]
    screen.listing(
        "batches", (_json(batch.record(), counts) for batch, counts in pairs),
        (*_COLUMNS, _WITHIN_COLUMN) if outer else _COLUMNS, rows,
        empty="No batches found.", cursor=page.cursor,
    )  # fmt: skip
    if page.cursor is not None and not screen.is_json:
        screen.note(f"There are more batches; use --cursor {page.cursor} for the next page.")


def _outer_names(storage: Storage, batches: Sequence[Batch]) -> dict[str, str]:
    """Return the names of the outer batches, keyed by the ids of the inner ones, with at most one read."""
    outer_ids = {batch.id: batch.batch_id for batch in batches if batch.batch_id is not None}
    if not outer_ids:
        return {}
    ids = sorted(set(outer_ids.values()))
    found = {record.id: record.relations for record in storage.get(ids) if record is not None}
    named = {
        id: relations.batch.name
        for id, relations in found.items()
        if relations is not None and relations.batch is not None
    }
    return {inner: named.get(outer, outer) for inner, outer in outer_ids.items()}


def _row(batch: Batch, counts: BatchCounts, now: int) -> list[Piece]:
    return [
        batch.id, _state(batch.record()), batch.name, f"{counts.ended:,}/{counts.total:,}",
        f"{counts.batches:,}",
        Cell(f"{counts.failed:,}", "red" if counts.failed else "bright_black"), f"{counts.active:,}",
        f"{counts.waiting:,}", age(batch.record().created_at, now),
    ]  # fmt: skip


def _state(record: JobRecord) -> Cell:
    return Cell("open", "magenta") if record.state is State.AWAITING else state_cell(record.state)


def _json(record: JobRecord, counts: BatchCounts) -> dict[str, object]:
    relations = record.relations
    name = "" if relations is None or relations.batch is None else relations.batch.name
    return {
        "id": record.id, "name": name, "state": record.state, "reason": record.reason,
        "batch": None if relations is None else relations.batch_id, "tags": list(record.tags),
        **attrs.asdict(counts), "progress": round(counts.progress, 6),
    }  # fmt: skip


def _show(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        batch = app.batches.get(options.id)
        counts, failed = batch.counts(), _failed_members(batch)
        within = batch.counts(deep=True, limit=_WITHIN) if counts.batches else None
        now = app.client.clock.now()
    record = batch.record()
    if screen.is_json:
        screen.json({
            **_json(record, counts), "within": _within_json(within),
            "failed_members": [job.id for job in failed],
        })  # fmt: skip
        return
    screen.line(Cell(f"Batch {batch.name}", "bold"), "  ", _state(record))
    screen.facts(_facts(record, counts, within, now), indent=2)
    if failed.jobs:
        screen.heading("Failed members")
        screen.table(_MEMBERS, [[job.id, state_cell(job.state), job.task, _reason(job)] for job in failed])
        if failed.cursor is not None:
            screen.note("There are more failed members; firelock batches requeue runs all of them again.")


def _reason(job: Job[Any]) -> str:
    return job.reason or ("" if job.error is None else f"{job.error.type}: {job.error.message}")


def _failed_members(batch: Batch) -> JobPage:
    """Return the first page with failed members; a storage can return empty pages before it."""
    page = batch.members(state=State.FAILED, limit=_SHOWN)
    for _ in range(_MAX_PAGES):
        if page.jobs or page.cursor is None:
            break
        page = batch.members(state=State.FAILED, limit=_SHOWN, cursor=page.cursor)
    return page


def _within_json(within: DeepBatchCounts | None) -> dict[str, object] | None:
    return None if within is None else {**attrs.asdict(within), "progress": round(within.progress, 6)}


def _within(within: DeepBatchCounts) -> str:
    """Return the progress of the jobs of a batch and of all its inner batches."""
    failed = f", {within.failed:,} failed" if within.failed else ""
    first = "the first " if within.is_cut else ""
    batches = f"{first}{number_of(within.batches, 'inner batch', 'inner batches')}"
    jobs = number_of(within.total, "job")
    return f"{within.ended:,} of {jobs} ended ({within.progress:.0%}){failed}, in {batches}"


def _facts(
    record: JobRecord, counts: BatchCounts, within: DeepBatchCounts | None, now: int
) -> list[tuple[str, Piece]]:
    relations = record.relations
    is_fast = relations is not None and relations.batch is not None and relations.batch.fails_fast
    batches = ""
    if counts.batches:
        batches = ", 1 of them a batch" if counts.batches == 1 else f", {counts.batches:,} of them batches"
    members = number_of(counts.total, "member")
    held = f"until {clock_time(record.due_at)}" if counts.is_held and record.due_at else ""
    return [
        ("id", record.id),
        ("ended", f"{counts.ended:,} of {members} ({counts.progress:.0%}){batches}"),
        ("succeeded", f"{counts.succeeded:,}"),
        ("failed", f"{counts.failed:,}" if counts.failed else ""),
        ("deleted", f"{counts.deleted:,}" if counts.deleted else ""),
        ("active", f"{counts.active:,}" if counts.active else ""),
        ("waiting", f"{counts.waiting:,} for another member" if counts.waiting else ""),
        ("including inner", "" if within is None else _within(within)),
        ("being filled", held),
        ("waits", "for its parents" if counts.is_unopened else ""),
        ("cancelled", "yes" if counts.is_cancelled else ""),
        ("on failure", "the first failed member stops the others" if is_fast else ""),
        ("within", (relations.batch_id or "") if relations is not None else ""),
        ("runs after", ", ".join(f"{edge.parent_id} ({edge.on})" for edge in record.parents)),
        ("tags", ", ".join(record.tags)),
        ("created", f"{clock_time(record.created_at)}, {age(record.created_at, now)}"),
        ("reason", record.reason or ""),
    ]


def _cancel(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:

        def cancel(batch_id: str) -> None:
            app.batches.get(batch_id).delete(reason=reason_of(options, "cancelled"))
            record_change(app, "jobs.delete", f"batch {batch_id}", reason=options.reason)

        screen.each(options.ids, "cancelled", cancel)


def _requeue(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:

        def requeue(batch_id: str) -> None:
            app.batches.get(batch_id).requeue(reason=reason_of(options, "requeued"))
            record_change(app, "jobs.requeue", f"batch {batch_id}", reason=options.reason)

        screen.each(options.ids, "open again", requeue)
