"""`firelock jobs requeue`, `delete` and `restore`: some jobs by id, or all that filters choose."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock.cli.filters import filter_of, has_filters
from firelock.cli.problem import Exit, Problem
from firelock.cli.screen import Cell, Screen
from firelock.cli.source import connected

if TYPE_CHECKING:
    from firelock.app import Firelock
    from firelock.storage import Applied, JobFilter, JobRecord

    Apply = Callable[[Sequence[str]], list[Applied]]

__all__ = ["delete_jobs", "requeue_jobs", "restore_jobs"]

_PAGE = 500
_MANY = 1_000
_ENDED = frozenset({"succeeded", "deleted"})
_REASON = "from the command line"


@attrs.frozen
class _Change:
    """What is done to jobs, in the words of its answers."""

    done: str
    infinitive: str
    passes_over: frozenset[str]  # states that it leaves alone anyway
    why: Callable[[Firelock, Sequence[str]], list[str | None]] | None = None  # of those that it left alone


_REQUEUE = _Change("requeued", "requeue", frozenset({"enqueued", "processing"}))
_DELETE = _Change("deleted", "delete", frozenset({"deleted"}))
_RESTORE = _Change("restored", "restore", frozenset(), lambda app, ids: app.jobs.why_not_restored(ids))


def requeue_jobs(options: argparse.Namespace, screen: Screen) -> int:
    """The jobs are enqueued again."""
    if options.is_all and options.state is None:
        options.state = "failed"  # whoever means others says so: nothing that succeeded is run twice by this
    _check(options, _REQUEUE)
    with connected(options) as app:
        return _change(
            app, options, screen, _REQUEUE, lambda ids: app.jobs.requeue(ids, reason=f"requeued {_REASON}")
        )


def delete_jobs(options: argparse.Namespace, screen: Screen) -> int:
    """The jobs are deleted."""
    _check(options, _DELETE)
    with connected(options) as app:
        return _change(
            app, options, screen, _DELETE, lambda ids: app.jobs.delete(ids, reason=f"deleted {_REASON}")
        )


def restore_jobs(options: argparse.Namespace, screen: Screen) -> int:
    """The deleted jobs are what they were before."""
    _check(options, _RESTORE)
    if options.state not in {None, "deleted"}:
        message = f"firelock jobs restore takes deleted jobs, not {options.state} ones."
        raise Problem(message, hint="Leave --state out.", code=Exit.USAGE)
    if options.is_all:
        options.state = "deleted"
    with connected(options) as app:
        return _change(
            app, options, screen, _RESTORE, lambda ids: app.jobs.restore(ids, reason=f"restored {_REASON}")
        )


def _check(options: argparse.Namespace, change: _Change) -> None:
    what = f"firelock jobs {change.infinitive}"
    if options.is_all and options.ids:
        message = f"{what} takes ids or --all, not both."
        raise Problem(message, hint="Leave one of them out.", code=Exit.USAGE)
    if options.is_all and not has_filters(options):
        message = f"{what} --all needs a filter."
        raise Problem(message, hint="Give one, as --state failed or --queue mail.", code=Exit.USAGE)
    if not options.is_all and not options.ids:
        message = f"{what} needs to know which jobs."
        hint = "Give ids, or --all and a filter, as --all --state failed."
        raise Problem(message, hint=hint, code=Exit.USAGE)
    given = has_filters(options) or options.dry_run or getattr(options, "expect", None)
    if not options.is_all and given:
        message = f"{what} takes filters, --dry-run and --expect with --all only."
        raise Problem(message, hint="Add --all in place of the ids.", code=Exit.USAGE)


def _change(app: Firelock, options: argparse.Namespace, screen: Screen, change: _Change, apply: Apply) -> int:
    if options.is_all:
        return _change_all(app, options, screen, change, apply)
    return _change_some(app, list(dict.fromkeys(options.ids)), screen, change, apply)


# ---- some ------------------------------------------------------------------------------------------------


def _change_some(app: Firelock, ids: list[str], screen: Screen, change: _Change, apply: Apply) -> int:
    from firelock.storage import Applied, PartlyApplied  # noqa: PLC0415 - loaded with an app only

    try:
        results = apply(ids)
    except PartlyApplied as error:
        _tell_partly(ids, error.results, screen, change)
        raise
    whys = _whys(
        app, change, [one for one, result in zip(ids, results, strict=True) if not result.is_applied]
    )
    if screen.is_json:
        pairs = zip(ids, results, strict=True)
        screen.json(
            {
                "results": [
                    {
                        "id": job_id,
                        "result": _word(result),
                        **({"why": whys[job_id]} if job_id in whys else {}),
                    }
                    for job_id, result in pairs
                ]
            }
        )
    else:
        records = app.storage.get(ids)
        for job_id, result, record in zip(ids, results, records, strict=True):
            if result is Applied.MISSING or record is None:
                screen.line(Cell(job_id), "  ", Cell("is not stored", "red"))
            elif result.is_applied:
                screen.line(Cell(job_id), "  ", Cell(change.done, "green"))
            else:
                word = f"not {change.done}: {whys.get(job_id) or f'it is {record.state}'}"
                screen.line(Cell(job_id), "  ", Cell(word, "yellow"))
    if Applied.MISSING in results:
        return Exit.NOT_FOUND
    return Exit.DONE if all(result.is_applied for result in results) else Exit.FAILED


def _tell_partly(
    ids: Sequence[str], results: Sequence[Applied | None], screen: Screen, change: _Change
) -> None:
    """What was answered is said, before the command ends with the error; the storage is asked no more."""
    if screen.is_json:
        answers = [
            {"id": one, "result": "unknown" if result is None else _word(result)}
            for one, result in zip(ids, results, strict=True)
        ]
        screen.json({"results": answers})
        return
    for job_id, result in zip(ids, results, strict=True):
        if result is None:
            screen.line(Cell(job_id), "  ", Cell("not known: ask again", "red"))
        elif result.is_applied:
            screen.line(Cell(job_id), "  ", Cell(change.done, "green"))
        else:
            screen.line(Cell(job_id), "  ", Cell(f"not {change.done}: {_word(result)}", "yellow"))


def _whys(app: Firelock, change: _Change, ids: Sequence[str]) -> dict[str, str]:
    if change.why is None or not ids:
        return {}
    return {job_id: why for job_id, why in zip(ids, change.why(app, ids), strict=True) if why is not None}


def _word(result: Applied) -> str:
    if result.is_applied:
        return "done"
    return str(result)


# ---- all -------------------------------------------------------------------------------------------------


def _change_all(
    app: Firelock, options: argparse.Namespace, screen: Screen, change: _Change, apply: Apply
) -> int:
    from firelock.errors import StorageError  # noqa: PLC0415 - loaded with an app only

    now = app.client.clock.now()
    where = filter_of(options, now)
    if where.until is None:
        where = attrs.evolve(where, until=now + 1)  # a job that comes into the state meanwhile is not meant
    if change is not _RESTORE and not options.dry_run:
        _check_number(app, where, options, change)
    counted: Counter[str] = Counter(done=0, refused=0, missing=0)
    try:
        for ids in _pages(app, where, change):
            if options.dry_run:
                refused = len(_whys(app, change, ids))
                counted.update(done=len(ids) - refused, refused=refused)
            else:
                counted.update(_word(result) for result in apply(ids))
            screen.progress(f"{change.done}: {counted['done']:,}")
    except StorageError:
        screen.end_progress()
        if counted.total():  # that ends the command, and what was done until then is done
            _report(screen, change, counted, is_dry=options.dry_run)
        raise
    screen.end_progress()
    _report(screen, change, counted, is_dry=options.dry_run)
    return Exit.DONE


def _check_number(app: Firelock, where: JobFilter, options: argparse.Namespace, change: _Change) -> None:
    """Whoever means many jobs, or some that have ended well or were deleted, has said how many.

    Raises:
        Problem: they have not, or there are more.
    """
    most = _MANY if options.expect is None else options.expect
    counted, has_ended = 0, False
    for page in _found(app, where):
        meant = [record.state for record in page if record.state not in change.passes_over]
        counted += len(meant)
        has_ended = has_ended or not _ENDED.isdisjoint(meant)
        if counted > most:
            raise Problem(
                f"More than {most:,} jobs would be {change.done}; none was.",
                hint="--dry-run counts them; then give --expect with the number.", code=Exit.USAGE,
            )  # fmt: skip
    if has_ended and options.expect is None:
        raise Problem(
            f"Some of the {counted:,} jobs have ended well or were deleted; none was {change.done}.",
            hint=f"Give --state failed, or --expect {counted} where they are meant.", code=Exit.USAGE,
        )  # fmt: skip


def _found(app: Firelock, where: JobFilter) -> Iterator[Sequence[JobRecord]]:
    cursor = None
    while True:
        page = app.storage.find(where, limit=_PAGE, cursor=cursor)
        yield page.jobs
        cursor = page.cursor
        if cursor is None:
            return


def _pages(app: Firelock, where: JobFilter, change: _Change) -> Iterator[list[str]]:
    for page in _found(app, where):
        if ids := [record.id for record in page if record.state not in change.passes_over]:
            yield ids


def _report(screen: Screen, change: _Change, counted: Counter[str], *, is_dry: bool) -> None:
    if screen.is_json:
        screen.json({"is_dry_run": is_dry, **counted})
        return
    jobs = f"{counted['done']:,} {'job' if counted['done'] == 1 else 'jobs'}"
    if is_dry:
        screen.line(f"{jobs} would be {change.done}.")
        if counted["refused"]:
            screen.line(f"{counted['refused']:,} would be left alone.")
        return
    screen.line(f"{jobs} {change.done}.")
    if counted["refused"]:
        left = "were left alone" if change.why else "had changed meanwhile and were left alone"
        screen.line(f"{counted['refused']:,} {left}.")
