"""The overview page, which shows problems, the current state, a chart of ended attempts, and links."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

import attrs

from firelock.control.findings import list_findings
from firelock.storage import Severity, State
from firelock_dashboard.pages.charts import (
    KINDS,
    LIVE,
    SPAN_NAMES,
    Chart,
    chart_of_depths,
    chart_of_samples,
    chart_of_series,
    spark,
)
from firelock_dashboard.pages.failures import recent_requeues, without_rows
from firelock_dashboard.pages.queues import Clearing, queue_row
from firelock_dashboard.pages.servers import deleted_running
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.stats.history import SPANS
from firelock_dashboard.stats.job_search import ANY_SIGNAL
from firelock_dashboard.web import formatting
from firelock_dashboard.web.actions import MANY
from firelock_dashboard.web.fields import Choice
from firelock_dashboard.web.formatting import task_name
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import Job, QueueView, RecurringJob
    from firelock.control.findings import Readings
    from firelock.storage import Finding
    from firelock_dashboard.pages.failures import Requeue
    from firelock_dashboard.stats.causes import Cause
    from firelock_dashboard.stats.history import Rates, Series, TaskStats
    from firelock_dashboard.web.request import Visit

_USUAL_SPAN = "1h"
_KIND = Choice("kind", choices=KINDS, default="throughput")
_SPAN = Choice("span", choices=SPAN_NAMES)
_QUEUES, _TASKS, _RECURRING, _GROUPS = 8, 6, 6, 5
_MINUTES = 10  # the number of minutes from which rates are computed


@attrs.frozen
class _Tile:
    name: str  # the name of the tile's texts
    value: str
    path: str
    query: dict[str, str] = attrs.field(factory=dict)
    unit: str = ""
    hint: str = ""
    state: str = ""  # the state that sets the colour of the sparkline
    spark: str = ""
    drawn: str = ""  # the meaning of the sparkline, if it varies
    look: str = ""  # a CSS class: is-bad or is-warn


# ---- banners ---------------------------------------------------------------------------------------------

_OF_A_KIND = 3
_PAGES = {  # the page that the button of each kind of problem opens
    "no_server": "servers", "server_lost": "servers", "stuck_workers": "servers",
    "parked_ends": "servers", "closing_session": "servers", "limit_zero": "limits", "limit_cost": "limits",
    "in_vain": "parent", "wait_overdue": "jobs", "unregistered": "jobs", "unique_in_vain": "limits",
    "no_listener": "queue", "long_wait": "queue", "unknown_task": "jobs", "failing": "failures",
    "jobs_failed": "failures", "long_run": "job",
    "recurring_error": "recurring", "recurring_late": "recurring", "limit_paused": "limits",
}  # fmt: skip


_WITH_DURATION = frozenset({"long_wait", "long_run", "server_lost"})  # problems that mention the duration


@attrs.frozen
class _Action:
    """A proposed action: a page to open or, with a permission, a form to send."""

    text: str  # a key of overview.toml
    path: str
    fields: Mapping[str, object] = attrs.field(factory=dict)  # the fields of the query or the form
    permission: str | None = None
    values: Mapping[str, object] = attrs.field(factory=dict)  # the values in the text


@attrs.frozen
class _Banner:
    """One problem, or the number of additional problems of a kind."""

    kind: str
    look: str  # bad or warn
    values: Mapping[str, object]
    since: int | None
    action: _Action

    @property
    def contains_duration(self) -> bool:
        """Whether the banner's sentence itself contains the duration."""
        return self.kind in _WITH_DURATION


def _banners(visit: Visit, readings: Readings) -> list[_Banner]:
    """Return the errors and warnings, worst first; at most three of a kind, then the number of others.

    Notes are shown only on the System page.
    """
    shown: list[_Banner] = []
    urgent = [finding for finding in list_findings(readings) if finding.severity is not Severity.NOTE]
    for code, found in groupby(urgent, key=lambda finding: finding.code):
        of_kind = list(found)
        shown += [_banner(visit, finding) for finding in of_kind[:_OF_A_KIND]]
        if len(of_kind) > _OF_A_KIND:
            more = {"count": len(of_kind) - _OF_A_KIND, "kind": code}
            page = _Action("show", "/" + shown[-1].action.path.split("/")[1])
            shown.append(_Banner("more", shown[-1].look, more, None, page))
    return sorted(shown, key=lambda banner: banner.look != "bad")


def _banner(visit: Visit, finding: Finding) -> _Banner:
    values = {"what": finding.what, "advice": finding.advice, **finding.values}
    if finding.code == "in_vain" and finding.values.get("parents") == 1 and "task" in finding.values:
        values["what"] = _cannot_start(visit, finding.values)
    if finding.code == "paused":
        action = _Action("resume", "/queues/resume", {"queue": values["queue"]}, "pause_queue")
    else:
        page = _PAGES.get(finding.code, "system")
        path = f"/{page}"
        if page == "queue":
            path = f"/queues/{values['queue']}"
        elif page == "job":
            path = f"/jobs/{values['job']}"
        elif page == "parent":
            path = f"/batches/{values['batch']}" if "batch" in values else f"/jobs/{values['parent']}"
            page = "batch" if "batch" in values else page
        fields = {}
        if finding.code == "unknown_task":
            fields = {"state": "enqueued", "task": values["task"]}
        elif finding.code in {"failing", "jobs_failed"}:
            fields = {"task": values["task"]}
        elif finding.code.startswith("limit_") and page == "limits":
            fields = {"prefix": values["limit"]}
        elif finding.code.startswith("recurring"):
            fields = {"q": values["recurring"]}
        action = _Action(f"to_{page}", path, fields, values={"name": task_name(str(values.get("name", "")))})
    return _Banner(finding.code, "bad" if finding.is_error else "warn", values, finding.since, action)


def _cannot_start(visit: Visit, values: Mapping[str, Any]) -> str:
    """Return the sentence about the jobs that wait for one failed parent, with their batch."""
    sentence = visit.text(
        "overview.cannot_start", count=values["count"], number=formatting.count_text(values["count"]),
        task=task_name(values["task"]), parent=task_name(values["name"]),
    )  # fmt: skip
    return f"{sentence} ({values['batch_name']})." if "batch" in values else f"{sentence}."


def _still_running(visit: Visit, jobs: Sequence[Job[Any]]) -> Iterator[_Banner]:
    """Yield a banner with the number of deleted jobs that still run, and a link to the job or the servers."""
    if not jobs:
        return
    what = visit.text("overview.still_running", count=len(jobs), task=task_name(jobs[0].task))
    one, many = _Action("to_job", f"/jobs/{jobs[0].id}"), _Action("to_servers", "/servers")
    yield _Banner("still_running", "warn", {"what": what}, None, one if len(jobs) == 1 else many)


def _awaiting_answers(visit: Visit, readings: Readings) -> Iterator[_Banner]:
    """Yield a banner with the number of jobs that wait for an answer, and the earliest time limit."""
    jobs = readings.sampled.waiting_for_signal
    if not jobs:
        return
    names = sorted({(job.waits_for or "").partition(" ")[2] for job in jobs})
    named = ", ".join(f"“{name}”" for name in names[:_OF_A_KIND]) + (", …" if len(names) > _OF_A_KIND else "")
    due = [job.due_at for job in jobs if job.due_at is not None]
    number = f"{formatting.count_text(len(jobs))}{'+' if readings.has_more(State.AWAITING) else ''}"
    what = visit.text("overview.awaiting_answers", count=len(jobs), number=number, signals=named)
    if due:
        left = formatting.span(max(0.0, (min(due) - readings.now) / 1_000_000))
        what += " " + visit.text("overview.awaiting_answers_until", count=len(jobs), span=left)
    one = _Action("answer", f"/jobs/{jobs[0].id}")
    signal = names[0] if len(names) == 1 else ANY_SIGNAL
    many = _Action("to_jobs", "/jobs", {"state": "awaiting", "signal": signal, "order": "oldest"})
    yield _Banner("awaiting_answers", "note", {"what": what}, None, one if len(jobs) == 1 else many)


# ---- the page --------------------------------------------------------------------------------------------


def show_overview(visit: Visit) -> Response:
    """Show the whole page, or one region of it."""
    span, kind = _span_and_kind(visit)
    wanted_span: str | None = visit.query.maybe(_SPAN)
    seen = _Seen(visit)
    if visit.part is None or "," in visit.part:  # the navigation must show the same counts as the tiles
        visit.use_counts(seen.readings.by_state)
    return visit.page(
        "overview.html", span=span, kind=kind, wanted_span=wanted_span, nav_with="now",
        spans=SPAN_NAMES, spans_of_kind=_spans_of(kind),
        is_new=lambda: seen.is_new, problems=lambda: _banners(visit, seen.readings),
        notes=lambda: [*_still_running(visit, seen.deleted), *_awaiting_answers(visit, seen.readings)],
        tiles=seen.tiles, chart=lambda: _chart(visit, span, kind), queues=seen.queues,
        failures=seen.failures, tasks=seen.tasks, recurring=seen.recurring,
        many=MANY, storage_url=_storage_url(visit),
        missing=lambda: visit.dashboard.history.series("24h").missing,
    )  # fmt: skip


def _span_and_kind(visit: Visit) -> tuple[str, str]:
    """Return the span and kind of the chart.

    There is no live view of latencies, and depths are kept for only an hour.
    """
    kind = visit.query.value(_KIND)
    allowed, span = _spans_of(kind), visit.query.maybe(_SPAN)
    if span not in allowed:
        span = _USUAL_SPAN
    return span, kind


def _spans_of(kind: str) -> tuple[str, ...]:
    """Return the spans that are available for a kind of chart."""
    if kind == "depth":
        return (LIVE, _USUAL_SPAN)
    return tuple(SPANS) if kind == "latency" else SPAN_NAMES


def _storage_url(visit: Visit) -> str:
    """Return a storage URL for an example: the app's URL, unless it has credentials or is in memory."""
    url = visit.fire.storage.url
    return url if "@" not in url and not url.startswith("memory:") else "sqlite:///jobs.db"


def _chart(visit: Visit, span: str, kind: str) -> Chart:
    if span == LIVE:
        ended = visit.dashboard.history.ended() if kind == "throughput" else None
        return chart_of_samples(visit.dashboard.live.samples(), visit.now.timestamp(), kind, ended)
    if kind == "depth":
        return chart_of_depths(visit.dashboard.history.depths_by_minute(), visit.now.timestamp())
    return chart_of_series(visit.dashboard.history.series(span), kind)


def _is_long(seen: Readings, queue: str, waited: int) -> bool:
    allowed = seen.thresholds.latency_of(queue)
    return allowed is not None and waited >= allowed


def _about(seconds: float) -> str:
    """Return a duration in its largest unit, because a tile has no space for two units."""
    number, unit = formatting.span(seconds).split()[:2]
    return f"{number}\N{NO-BREAK SPACE}{unit}"


class _Seen:
    """The data of the page's regions, each read when it is requested."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._dashboard = visit.dashboard

    @cached_property
    def readings(self) -> Readings:
        """The state of the app for the tiles, the banners and the tables; read once per response."""
        return self._dashboard.watch.readings()

    @cached_property
    def deleted(self) -> list[Job[Any]]:
        """The deleted jobs that still run, read once for the tile and the banner."""
        return deleted_running(self._visit, self.readings.alive)

    @property
    def is_new(self) -> bool:
        """Whether the app has no jobs and no history."""
        counts, seen = self._visit.state_counts(), self.readings
        return not (any(counts.values()) or seen.usually or seen.recurring)

    # ---- tiles -------------------------------------------------------------------------------------------

    def tiles(self) -> list[_Tile]:
        """Return the six numbers that summarize the state."""
        hour, day = self._dashboard.history.series("1h"), self._dashboard.history.series("24h")
        counts, depths = self._visit.state_counts(), self._dashboard.history.depths()
        seen = _about(max(60.0, depths.seconds))
        return [
            self._processing(counts["processing"], depths.processing, seen),
            _Tile(
                "enqueued", self._count(counts["enqueued"]), "/jobs", {"state": "enqueued"}, state="enqueued",
                spark=spark(depths.enqueued), drawn=self._text("drawn_enqueued", span=seen),
                hint=self._text("tile_enqueued_hint"),
            ),
            self._oldest_wait(),
            self._failed(day, hour),
            _Tile(
                "succeeded", self._count(day.count("succeeded")), "/jobs", {"state": "succeeded"},
                state="succeeded", spark=spark(day.by_outcome["succeeded"]),
                hint=self._text("tile_succeeded_hint", count=self._count(hour.count("succeeded"))),
            ),
            self._backlog(hour),
        ]  # fmt: skip

    def _text(self, key: str, **values: object) -> str:
        return self._visit.text(f"overview.{key}", **values)

    def _count(self, number: int) -> str:
        return formatting.count_text(number)

    def _processing(self, processing: int, past: Sequence[int], span: str) -> _Tile:
        alive = self.readings.alive
        slots = sum(one.workers for one in alive)
        deleted = len(self.deleted)  # these jobs were ordered to stop but still occupy slots
        has_slots = slots >= max(processing + deleted, 1)
        hint = self._text("tile_servers", count=len(alive))
        if slots and not has_slots:  # some jobs were claimed ahead, or by a lost server
            ahead = processing + deleted - slots
            hint = self._text("tile_ahead", count=slots, slots=self._count(slots), ahead=self._count(ahead))
        if deleted:
            hint = f"{hint} · {self._text('tile_deleted', count=deleted, number=self._count(deleted))}"
        return _Tile(
            "processing", " + ".join(map(self._count, [processing, *([deleted] if deleted else [])])),
            "/jobs", {"state": "processing"},
            unit=self._text("tile_of_slots", count=self._count(slots)) if has_slots else "",
            hint=hint, state="processing",
            spark=spark(past), drawn=self._text("drawn_processing", span=span),
        )  # fmt: skip

    def _oldest_wait(self) -> _Tile:
        seen = self.readings
        names = [queue.name for queue in seen.queues if not queue.is_paused]
        waiting = {name: at for name in names if (at := seen.waits_since(name)) is not None}
        if not waiting:
            held = {name: seen.oldest[name] for name in names if name in seen.held and name in seen.oldest}
            if held:
                queue = min(held, key=lambda name: held[name])
                waited = (seen.now - held[queue]) / 1_000_000
                hint = self._text("tile_held", queue=queue)
                return _Tile("oldest", _about(waited), "/limits", hint=hint)
            return _Tile("oldest", "–", "/queues", hint=self._text("tile_nothing_waits"))
        queue = min(waiting, key=lambda name: waiting[name])
        waited = seen.now - waiting[queue]
        return _Tile(
            "oldest", _about(waited / 1_000_000), f"/queues/{queue}",
            hint=self._text("tile_in_queue", queue=queue),
            look="is-warn" if _is_long(seen, queue, waited) else "",
        )  # fmt: skip

    def _failed(self, day: Series, hour: Series) -> _Tile:
        failed = day.count("failed")
        return _Tile(
            "failed", self._count(failed), "/failures", state="failed",
            spark=spark(day.by_outcome["failed"]),
            hint=self._text("tile_failed_hint", percent=formatting.percent(failed, day.count())),
            look="is-bad" if hour.count("failed") else "",
        )  # fmt: skip

    def _backlog(self, hour: Series) -> _Tile:
        """Return the time until the slowest queue has no waiting jobs, or the reason why it never will."""
        ended = [sum(counts) for counts in zip(*hour.by_outcome.values(), strict=True)]
        rates = self._dashboard.history.queues()
        rows = [queue_row(view, self.readings, rates) for view in self.readings.queues]
        order = list(Clearing)
        slowest = min(
            (row for row in rows if row.clears is not Clearing.NOTHING),
            key=lambda row: (order.index(row.clears), -(row.clears_in or timedelta()), row.name),
            default=None,
        )
        value, unit, look, path = "–", "", "", "/queues"
        if slowest is None:
            out = sum(ended[-_MINUTES - 1 :]) / _MINUTES
            count = max(1, round(out))
            number = self._count(count) if out >= 1 else "< 1"
            hint = self._text("tile_rate", count=count, number=number) if out else ""
            hint = hint or self._text("tile_nothing_waits")
        else:
            queue, path = slowest.name, f"/queues/{slowest.name}"
            hint = self._text("tile_in_queue", queue=queue)
            match slowest.clears:
                case Clearing.UNSERVED | Clearing.GROWING:
                    value, look = self._text("tile_never"), "is-warn"
                    hint = self._text(f"tile_{slowest.clears}", queue=queue)
                case Clearing.HELD:
                    value, unit, path = "", self._text("tile_unknown"), "/limits"
                case Clearing.STANDING:
                    hint, look = self._text("tile_standing", queue=queue), "is-warn"
                case _:
                    value = _about((slowest.clears_in or timedelta()).total_seconds())
        return _Tile(
            "backlog", value, path, unit=unit, hint=hint, spark=spark(ended), state="enqueued", look=look
        )  # fmt: skip

    # ---- tables ------------------------------------------------------------------------------------------

    def queues(self) -> list[tuple[QueueView, int | None, int, Rates | None, int | None]]:
        """Return the queues with the most jobs.

        For each queue, the result contains the time when the first job that no limit delays began to wait,
        the number of jobs that limits delay, the rates, and the time when the first delayed job began to
        wait.
        """
        seen = self.readings
        held = {name: head.count for name, head in seen.held.items()}
        fullest = sorted(seen.queues, key=lambda one: (-one.enqueued, -one.processing, one.name))[:_QUEUES]
        rates = self._dashboard.history.queues()
        return [
            (
                one, seen.waits_since(one.name), held.get(one.name, 0), rates.get(one.name),
                seen.oldest.get(one.name) if one.name in held else None,
            )
            for one in fullest
        ]  # fmt: skip

    def failures(self) -> tuple[Sequence[Cause], Mapping[str, Requeue], Sequence[Requeue]]:
        """Return the most frequent unmuted causes, the last requeues, and requeues without failed jobs."""
        causes = self._dashboard.watch.causes()
        requeues = recent_requeues(self._visit)
        shown = [one for one in causes if one.mute is None][:_GROUPS]
        return shown, requeues, without_rows(requeues, causes)

    def tasks(self) -> list[tuple[str, TaskStats]]:
        """Return the tasks with the most runs within a day."""
        return sorted(self._dashboard.history.tasks().items(), key=lambda one: -one[1].runs)[:_TASKS]

    def recurring(self) -> list[RecurringJob]:
        """Return the recurring jobs that run next."""
        coming = [one for one in self.readings.recurring if one.next_at and not one.is_paused]
        return sorted(coming, key=lambda one: (one.next_at or datetime.max.replace(tzinfo=UTC), one.id))[
            :_RECURRING
        ]


# ---- for scripts -----------------------------------------------------------------------------------------


def show_history(visit: Visit) -> Response:
    """Return the data of a chart as JSON: the start and the values of each bucket, with null for gaps."""
    span, kind = _span_and_kind(visit)
    chart = _chart(visit, span, kind)
    return visit.json(
        {
            "span": span, "kind": kind, "bucket": chart.bucket_seconds, "unit": chart.unit,
            "stacked": chart.is_stacked, "starts": chart.starts, "missing": chart.missing,
            "lines": [
                {
                    "name": line.name, "state": line.state, "values": line.values,
                    "label": visit.text(f"overview.line_{line.name}"),
                }
                for line in chart.lines
            ],
        }
    )  # fmt: skip


def show_samples(visit: Visit) -> Response:
    """Return the last samples, for pages that have no stream."""
    live = visit.dashboard.live
    return visit.json(
        {"samples": [attrs.asdict(one) for one in live.samples()], "trouble": live.storage_error}
    )


ROUTES = (
    Route("GET", "/", Permission.READ, show_overview, (_KIND, _SPAN)),
    Route("GET", "/history.json", Permission.READ, show_history, (_KIND, _SPAN), is_api=True),
    Route("GET", "/live.json", Permission.READ, show_samples, is_api=True),
)
