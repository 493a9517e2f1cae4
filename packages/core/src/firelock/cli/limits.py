"""`firelock limits`: lists limit keys and waiting jobs; sets, resets, pauses and resumes limits."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from firelock.cli.commands import ORIGIN, Exit, Problem, add_command, add_group, user_name, whole
from firelock.cli.screen import Cell, Column, Piece, Screen
from firelock.cli.source import connected
from firelock.model.clock import micros
from firelock.model.text import age, clock_time, isoformat, span

if TYPE_CHECKING:
    from datetime import datetime

    from firelock.app import Firelock
    from firelock.cli.commands import Commands
    from firelock.control.limits import LimitName, LimitView
    from firelock.jobs.limit_line import WaitingJob
    from firelock.limits.settings import LimitSettings

_COLUMNS = (
    Column("KEY", is_whole=True),
    Column("RUNNING", is_number=True),
    Column("WAITING", is_number=True),
    Column("LIMIT"),
    Column("SET BY", is_whole=True),
    Column("STATE", is_whole=True),
    Column("NOTE"),
)
_WAITING_COLUMNS = (
    Column("PLACE", is_number=True),
    Column("ID", is_whole=True),
    Column("TASK", is_whole=True),
    Column("WAITS"),
    Column("STARTS ABOUT", is_whole=True),
    Column("HELD BY"),
)
_FIRST = 10  # number of waiting jobs that `show` lists
_PAGE_LIMIT = 500
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|[smhd]?)\Z", re.ASCII)
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_MANY = 10_000  # maximum number of waiting jobs that are counted and listed


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the group's commands to the parser."""
    group = add_group(parser)
    listing = add_command(
        group, "list", "List limit keys with their running and waiting jobs.", _list,
        more="Limit names without keys are listed last, with the settings that their keys will have.",
        examples=("firelock limits list", "firelock limits list tenant: --limit 20 --json"),
    )  # fmt: skip
    listing.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="prefix of the keys")
    listing.add_argument(
        "--limit",
        type=whole(_PAGE_LIMIT),
        default=100,
        metavar="N",
        help="page size (default: 100, maximum: 500)",
    )
    listing.add_argument("--after", default="", metavar="KEY", help="next page: only keys after this one")
    show = add_command(
        group, "show", "Show a limit key or name: its settings and running jobs.", _show,
        examples=("firelock limits show tenant:7",),
    )  # fmt: skip
    show.add_argument("name", metavar="NAME_OR_KEY")
    waiting = add_command(
        group, "waiting", "List the jobs that wait for a limit key, in order, and their limits.",
        _waiting_jobs,
        more=(
            "Start times are estimated from the rates, the jobs ahead and the run times of the last hour.\n"
            "If no such job has ended, `within` assumes that the jobs ahead run until their timeouts."
        ),
        examples=("firelock limits waiting tenant:7", "firelock limits waiting smtp --limit 100 --json"),
    )  # fmt: skip
    waiting.add_argument("key", metavar="KEY")
    waiting.add_argument(
        "--limit",
        type=whole(_PAGE_LIMIT),
        default=50,
        metavar="N",
        help="page size (default: 50, maximum: 500)",
    )
    waiting.add_argument(
        "--after", type=_skipped, default=0, metavar="N", help="next page: number of jobs to skip"
    )
    _add_changes(group)


def _add_changes(group: Commands) -> None:
    setting = add_command(
        group, "set", "Change the settings of a limit name or key until they are reset.", _set,
        more=(
            "The settings of a name apply to each of its keys that has no settings of its own. Omitted\n"
            "settings do not change. The value none removes a setting."
        ),
        examples=(
            "firelock limits set tenant --concurrent 8",
            "firelock limits set tenant:7/openai --rate 500 --per 1m --burst 50",
            "firelock limits set smtp --concurrent none",
        ),
    )  # fmt: skip
    setting.add_argument("name", metavar="NAME_OR_KEY")
    setting.add_argument(
        "--concurrent", type=_number, metavar="N", help="maximum running jobs, 0 to 1,000; or none"
    )
    setting.add_argument("--rate", type=_number, metavar="N", help="cost that may start per period; or none")
    setting.add_argument("--per", type=_seconds, metavar="DURATION", help="period: 500ms, 1s, 1m, 1h")
    setting.add_argument(
        "--burst", type=_number, metavar="N", help="cost that may start together after a pause; or none"
    )
    reset = add_command(
        group, "reset", "Restore the settings from the code.", _reset,
        examples=("firelock limits reset tenant:7",),
    )  # fmt: skip
    pause = add_command(
        group, "pause", "Stop starting jobs that need the limit; running jobs continue.", _pause,
        examples=('firelock limits pause tenant:7/openai --note "their quota is used up"',),
    )  # fmt: skip
    pause.add_argument("--note", default="", metavar="TEXT", help="reason, shown with the limit")
    resume = add_command(group, "resume", "Start jobs that need the limit again.", _resume)
    for command in (reset, pause, resume):
        command.add_argument("names", metavar="NAME_OR_KEY", nargs="+")


_NONE = "none"


def _number(text: str) -> int | str:
    if text == _NONE:
        return _NONE
    if not (text.isascii() and text.isdigit() and len(text) < 10):  # noqa: PLR2004 - the highest rate
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, or none, got {text!r}")
    return int(text)


def _skipped(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= _MANY):  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to {_MANY:,}, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    if (found := _DURATION.match(text)) is None:
        raise argparse.ArgumentTypeError(f"must be a duration such as 500ms, 1s, 1m or 1h, got {text!r}")
    return float(found[1]) * _SECONDS[found[2]]


# ---- list ------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        keys = app.limits.list(options.prefix, options.after, options.limit)
        is_last = len(keys) < options.limit
        named = app.limits.names() if is_last else []
        now = app.client.clock.now()
    seen = {view.name for view in keys} | {view.key for view in keys}
    alone = [one for one in named if one.name not in seen and one.name.startswith(options.prefix)]
    alone = [one for one in alone if one.name > options.after]
    cursor = None if is_last else keys[-1].key
    screen.listing(
        "limits", map(_json, keys), _COLUMNS,
        [*(_row(view, now) for view in keys), *map(_name_row, alone)],
        empty="No limit is declared or set, and no job needs one.",
        names=list(map(_name_json, alone)), cursor=cursor,
    )  # fmt: skip
    if cursor is not None and not screen.is_json:
        screen.note(f"There may be more keys; use --after {cursor!r} for the next page.")


def _row(view: LimitView, now: int) -> list[Piece]:
    of = "" if view.concurrent is None else f"/{view.concurrent:,}"
    source = f"{view.source}, own" if view.is_own and view.key != view.name else str(view.source)
    return [
        view.key, f"{view.running:,}{of}", _waiting(view), view.words, source, _state(view, now), view.note,
    ]  # fmt: skip


def _name_row(one: LimitName) -> list[Piece]:
    state = Cell("paused", "yellow") if one.is_paused else Cell("no key yet", "bright_black")
    return [one.template or one.name, "", "", one.words, str(one.source), state, one.note]


def _waiting(view: LimitView) -> str:
    return f"{view.waiting:,}{'+' if view.waiting >= _MANY else ''}"


def _state(view: LimitView, now: int) -> Cell:
    opens = "" if view.opens_at is None else age(micros(view.opens_at), now)
    words = {
        "paused": "paused",
        "closed": "closed by a setting of 0",
        "blocked": f"blocked, opens {opens}",
        "rate": f"rate used up, opens {opens}",
        "full": "full",
        "held": f"jobs wait for {', '.join(view.held_by)}",
        "waiting": "jobs wait",
        "open": "open",
    }
    return Cell(words[view.state], _COLOURS[view.state])


_COLOURS = {
    "paused": "yellow", "closed": "yellow", "blocked": "cyan", "rate": "cyan", "full": "blue", "held": "blue",
    "waiting": "blue", "open": "green",
}  # fmt: skip


def _settings_json(settings: LimitSettings | None) -> dict[str, object] | None:
    if settings is None:
        return None
    per = None if settings.rate is None else settings.per / 1_000_000
    return {
        "concurrent": settings.concurrent, "rate": settings.rate, "per_seconds": per, "burst": settings.burst,
    }  # fmt: skip


def _name_json(one: LimitName) -> dict[str, object]:
    return {
        "name": one.name, "template": one.template, "settings": _settings_json(one.settings),
        "code": _settings_json(one.code), "source": str(one.source), "is_paused": one.is_paused,
        "note": one.note, "paused_by": one.paused_by, "paused_at": _iso(one.paused_at),
    }  # fmt: skip


def _json(view: LimitView) -> dict[str, object]:
    return {
        "key": view.key, **_name_json(view), "is_own": view.is_own, "running": view.running,
        "holders": list(view.holders), "waiting": view.waiting, "opens_at": _iso(view.opens_at),
        "state": str(view.state), "held_by": list(view.held_by),
    }  # fmt: skip


def _iso(at: datetime | None) -> str | None:
    return None if at is None else isoformat(micros(at))


# ---- show ------------------------------------------------------------------------------------------------


def _show(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        view = app.limits.get(options.name)
        is_known = view.running or view.waiting or view.opens_at or view.is_paused or view.code is not None
        if not is_known and view.source == _NONE:
            raise Problem(
                f"Limit {options.name!r} was not found: no job needs it, and it has no settings.",
                hint="Run firelock limits list to see all limits.", code=Exit.NOT_FOUND,
            )  # fmt: skip
        line = app.limits.line(view.key, limit=_FIRST) if view.waiting else None
        now = app.client.clock.now()
    if screen.is_json:
        screen.json(
            {**_json(view), "waiting_jobs": [_waiting_json(one) for one in line.jobs] if line else []}
        )
        return
    of_keys = view.is_name and not view.is_paused  # each key of the name has its own state
    state = "" if of_keys else _state(view, now)
    screen.line(Cell(f"Limit {view.key}", "bold"), *(("  ", state) if state else ()))
    screen.facts(_facts(view, now), indent=2)
    if view.is_name and view.template:
        screen.note(
            f"Run firelock limits list {view.template.partition('{')[0]} to see the keys that jobs need."
        )
    if view.holders:
        screen.heading("Running")
        for job_id in view.holders:
            screen.line(f"  {job_id}")
        if view.running > len(view.holders):
            screen.line(f"  … and {view.running - len(view.holders):,} more")
    if line is not None and line.jobs:
        screen.heading("Waiting")
        for one in line.jobs:
            starts = _starts(one, now)
            screen.line(
                f"  {_turn(one):>5}  {one.job.id}  {one.job.task}", *(("  ", starts) if starts else ())
            )
        if line.after is not None:
            screen.note(f"Run firelock limits waiting {view.key!r} to list the others.")


def _waiting_jobs(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        line = app.limits.line(options.key, options.after, options.limit)
        now = app.client.clock.now()
    screen.listing(
        "jobs", map(_waiting_json, line.jobs), _WAITING_COLUMNS,
        [_waiting_row(one, now) for one in line.jobs],
        empty="No job waits for this key.", cursor=line.after, is_cut=line.is_cut,
    )  # fmt: skip
    if line.after is not None and not screen.is_json:
        screen.note(f"There may be more jobs; use --after {line.after} for the next page.")
    if line.is_cut and not screen.is_json:
        screen.note("Jobs wait for more than 1,000 sets of keys; only the first 1,000 sets are listed.")


def _waiting_row(one: WaitingJob, now: int) -> list[Piece]:
    held_by = ", ".join(map(str, one.waits)) or ("a worker" if one.is_read else "another limit or a worker")
    return [
        _turn(one), one.job.id, one.job.task, span(now - one.job.changed_at), _starts(one, now),
        held_by,
    ]  # fmt: skip


def _turn(one: WaitingJob) -> str:
    """Return the job's position; "–" if another key blocks the job, so that other jobs start before it."""
    return "–" if one.turn is None else f"{one.turn + 1:,}"


def _starts(one: WaitingJob, now: int) -> str:
    if one.waits and one.starts_by is not None:
        return f"within {span(max(0, micros(one.starts_by) - now))}"
    return age(micros(one.starts_at), now) if one.waits and one.starts_at is not None else ""


def _waiting_json(one: WaitingJob) -> dict[str, object]:
    held_by = [
        {
            "key": wait.key, "is_paused": wait.is_paused, "is_full": wait.is_full, "running": wait.running,
            "concurrent": wait.concurrent, "opens_at": _iso(wait.opens_at),
        }
        for wait in one.waits
    ]  # fmt: skip
    return {
        "place": one.place + 1, "turn": None if one.turn is None else one.turn + 1,
        "id": one.job.id, "task": one.job.task, "queue": one.job.queue,
        "enqueued_at": isoformat(one.job.changed_at), "held_by": held_by, "is_read": one.is_read,
        "starts_at": _iso(one.starts_at if one.waits else None),
        "starts_by": _iso(one.starts_by if one.waits else None),
    }  # fmt: skip


def _facts(view: LimitView, now: int) -> list[tuple[str, Piece]]:
    code = "" if view.code is None else _words_of(view.code)
    of = "" if view.concurrent is None else f" of {view.concurrent:,}"
    by = f"{f', {view.paused_by}' if view.paused_by else ''}"
    since = "" if view.paused_at is None else f"{clock_time(micros(view.paused_at))}{by}"
    opens = "" if view.opens_at is None else age(micros(view.opens_at), now)
    return [
        ("name", view.name if view.name != view.key else ""),
        ("keys", view.template or "" if view.is_name else ""),
        ("limit", view.words),
        ("set by", f"{view.source}{', for this key only' if view.is_own and view.key != view.name else ''}"),
        ("in code", code if view.source != "code" else ""),
        ("running", "" if view.is_name else f"{view.running:,}{of}"),
        ("waiting", "" if view.is_name else _waiting(view)),
        ("opens", opens),
        ("paused", since or ("yes" if view.is_paused else "")),
        ("note", view.note),
    ]


def _words_of(settings: LimitSettings) -> str:
    from firelock.control.limits import describe_settings  # noqa: PLC0415 - already loaded with the app

    return describe_settings(settings)


# ---- change ----------------------------------------------------------------------------------------------


def _set(options: argparse.Namespace, screen: Screen) -> None:
    given: dict[str, Any] = {name: getattr(options, name) for name in ("concurrent", "rate", "per", "burst")}
    changes: dict[str, Any] = {
        name: None if value == _NONE else value for name, value in given.items() if value is not None
    }
    if not changes:
        raise Problem(
            "No settings are given.", hint="Add --concurrent N, or --rate N --per 1m; none removes a setting."
        )
    with connected(options) as app:
        view = app.limits.set(options.name, **changes, by=user_name(), origin=ORIGIN)
        _note_unknown(app, [view], screen)
    if screen.is_json:
        screen.json(_json(view))
    else:
        screen.line(options.name, "  ", Cell(view.words, "green"))


def _note_unknown(app: Firelock, views: Sequence[LimitView], screen: Screen) -> None:
    """Print a note about a name that neither a server nor a job has used, because it might be misspelled."""
    for view in views:
        if view.template is None:
            alike = app.limits.list(view.name.partition("/")[0], limit=_PAGE_LIMIT)
            if not any(one.name == view.name and (one.running or one.waiting) for one in alike):
                screen.note(f"No server declares {view.name!r}, and no job needs it: check its spelling.")


def _reset(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        _each(
            options.names, screen, lambda key: app.limits.reset(key, by=user_name(), origin=ORIGIN), "reset"
        )


def _pause(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        views: list[LimitView] = []
        screen.each(
            options.names, "paused",
            lambda key: views.append(app.limits.pause(key, options.note, by=user_name(), origin=ORIGIN)),
        )  # fmt: skip
        _note_unknown(app, views, screen)


def _resume(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        screen.each(
            options.names, "resumed", lambda key: app.limits.resume(key, by=user_name(), origin=ORIGIN)
        )


def _each(names: Sequence[str], screen: Screen, act: Callable[[str], LimitView], done: str) -> None:
    """Change each limit and print its settings after the change."""
    views = {name: act(name) for name in names}
    if screen.is_json:
        screen.json({done: names})
    else:
        for name, view in views.items():
            screen.line(name, "  ", Cell(view.words, "green"))
