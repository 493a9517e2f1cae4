"""The Servers page, which shows worker processes and running jobs, and can quiet, resume and stop servers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from firelock import State
from firelock.control.servers import ENDING, RETIRED, ServerState, is_leaving, renewed_at
from firelock_dashboard.pages.suggestions import starts
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.actions import (
    ORDER,
    SERVER,
    SESSION,
    confirmation_page,
    end_process,
    send_order,
    server_of,
)
from firelock_dashboard.web.fields import Text
from firelock_dashboard.web.formatting import instant, short_id, span, task_name
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import Job, ServerView
    from firelock.storage import JobRecord
    from firelock_dashboard.web.request import Visit

_SERVERS = 24  # the maximum number of servers on a page
_SLOTS = 200  # the maximum number of slots drawn for a server
_AT_ONCE = 500  # running jobs per read; if there are more, the jobs of each server are read separately
_DENSE = 24  # if more jobs run, they are drawn as squares without text
_LOST = 100
_DELETED = 200  # the number of newest jobs per state that are searched for deleted jobs that still run
_NAMED = 5  # the maximum number of jobs that a question names
_AFTER = Text("after")


@attrs.frozen
class _Running:
    id: str
    task: str
    pid: int | None  # the process id; None if its session is not listed
    since: datetime
    is_started: bool  # False if the job is claimed but might not run yet
    is_deleted: bool  # whether the job was ordered to stop and has not ended


@attrs.frozen
class _ServerProcess:
    pid: int
    state: str
    workers: int
    busy: int
    cpu_percent: float
    rss_bytes: int
    renewed_at: int
    timeout_seconds: float
    is_leaving: bool  # whether the process was replaced


@attrs.frozen
class _Server:
    view: ServerView
    state: ServerState
    busy: int  # slots in use, computed from the jobs, because heartbeats are seconds apart
    sessions: list[_ServerProcess]  # the active sessions, or all sessions if none is active
    running: list[_Running]  # at most _SLOTS
    more: int  # further running jobs
    free: int  # the number of slots that are drawn empty
    free_more: int
    is_only: bool  # whether this is the only server that claims jobs

    @property
    def renewed_at(self) -> int:
        """The oldest of the sessions' last heartbeats."""
        return min(one.renewed_at for one in self.sessions)

    @property
    def silence(self) -> float:
        """The seconds without a heartbeat after which the server is lost; the maximum of its sessions."""
        return max(one.timeout_seconds for one in self.sessions)

    @property
    def deleted(self) -> int:
        """The number of drawn jobs that were deleted and have not ended."""
        return sum(job.is_deleted for job in self.running)

    @property
    def is_dense(self) -> bool:
        """Whether the server's jobs are drawn as squares without text."""
        return len(self.running) > _DENSE


@attrs.frozen
class WorkerProcess:
    """A running worker process with the jobs that it has claimed."""

    session: str
    pid: int
    server: str
    state: str
    jobs: Sequence[JobRecord]  # the jobs in the state processing
    replaced_at: datetime | None  # None if it was not replaced, or if several processes have started since

    @property
    def is_replaced(self) -> bool:
        """Whether the process claims no more jobs because another process has replaced it."""
        return self.state in {RETIRED, ENDING}

    @property
    def is_ending(self) -> bool:
        """Whether the process is ending, so that its jobs have only the grace time left."""
        return self.state == ENDING

    @property
    def may_be_ended(self) -> bool:
        """Whether the process can be ordered to end; False if it or its server is already ending."""
        return self.state not in {ENDING, ServerState.STOPPING}


@attrs.frozen
class _ServersPage:
    servers: list[_Server]
    lost: list[_Server]
    alive: int
    slots: int
    busy: int
    after: str | None


def show_servers(visit: Visit) -> Response:
    """Show every running server, and the servers that ended or were lost within a day."""
    after = visit.query.maybe(_AFTER)
    return visit.page(
        "servers.html", after=after,
        page=lambda: _page(visit, after), question=partial(_question, visit),
        storage=visit.fire.storage.url.partition(":")[0],
    )  # fmt: skip


def _page(visit: Visit, after: str | None) -> _ServersPage:
    judged = [(view, view.state_at(visit.now_micros)) for view in visit.fire.servers.list()]
    alive = [(view, state) for view, state in judged if not state.is_gone]
    lost = [(view, state) for view, state in judged if state.is_gone][-_LOST:]
    listening = {view.id for view, state in alive if state.is_listening}
    places = {view.id: place for place, (view, _) in enumerate(alive)}
    start = 0 if after is None else places.get(after, -1) + 1
    shown = alive[start : start + _SERVERS]
    running, is_cut = _running(visit, [view for view, _ in shown])
    started = starts(visit, (job.record() for jobs in running.values() for job in jobs))
    servers = [
        _server(
            visit, view, state, running[view.id], started, is_cut=is_cut,
            is_only=listening <= {view.id},
        )
        for view, state in shown
    ]  # fmt: skip
    others = {view.id: view.busy for view, _ in alive} | {one.view.id: one.busy for one in servers}
    return _ServersPage(
        servers, [_server(visit, view, state, [], {}) for view, state in reversed(lost)],
        len(alive), sum(view.workers for view, _ in alive), sum(others.values()),
        shown[-1][0].id if start + _SERVERS < len(alive) else None,
    )  # fmt: skip


def _running(visit: Visit, servers: Sequence[ServerView]) -> tuple[Mapping[str, list[Job[Any]]], bool]:
    """Return the jobs that each server runs, newest first, and whether there may be more."""
    server_of = {one.session.id: view.id for view in servers for one in view.sessions}
    found: dict[str, list[Job[Any]]] = defaultdict(list)
    if not servers:
        return found, False
    page = visit.fire.jobs.find(state=State.PROCESSING, limit=_AT_ONCE)
    jobs = list(page)
    if page.cursor is not None:
        limit = max(_DENSE, _AT_ONCE // len(servers))
        names = dict.fromkeys(view.name for view in servers)
        jobs = [
            job
            for name in names
            for job in visit.fire.jobs.find(state=State.PROCESSING, server=name, limit=min(limit, _SLOTS))
        ]
    for job in jobs:
        server_id = server_of.get(job.record().session or "")
        if server_id is not None:
            found[server_id].append(job)
    _add_deleted(visit, servers, found)
    return found, page.cursor is not None


def _add_deleted(visit: Visit, servers: Sequence[ServerView], found: Mapping[str, list[Job[Any]]]) -> None:
    """Add the deleted jobs that the servers still run, then those that were requeued after the delete.

    Each state is read once, and only if a server reports more running jobs than were found.
    """
    for state in (State.DELETED, State.ENQUEUED):
        if all(view.busy <= len(found[view.id]) for view in servers):
            return
        for server_id, job in _held(visit, servers, state):
            found[server_id].append(job)


def _held(visit: Visit, servers: Sequence[ServerView], state: State) -> Iterator[tuple[str, Job[Any]]]:
    """Yield the newest jobs of a state that an active session still runs, each with its server's id."""
    server_of = {one.session.id: view.id for view in servers for one in view.living(visit.now_micros)}
    for job in visit.fire.jobs.find(state=state, limit=_DELETED):
        server_id = server_of.get(job.record().session or "")
        if server_id is not None:
            yield server_id, job


def deleted_running(visit: Visit, servers: Sequence[ServerView]) -> list[Job[Any]]:
    """Return the newest deleted jobs that the servers still run, using at most one read."""
    busy = [view for view in servers if view.busy]
    return [job for _, job in _held(visit, busy, State.DELETED)] if busy else []


def worker_process(visit: Visit, servers: Sequence[ServerView], session: str | None) -> WorkerProcess | None:
    """Return the worker process of a session with its jobs; None if the session has ended."""
    now = visit.now_micros
    found = ((view, one) for view in servers for one in view.living(now) if one.session.id == session)
    view, record = next(found, (None, None))
    if view is None or record is None:
        return None
    held = visit.fire.jobs.find(state=State.PROCESSING, server=view.name, limit=_AT_ONCE)
    began = record.session.started_at
    later = [one.session.started_at for one in view.sessions if one.session.started_at > began]
    return WorkerProcess(
        record.session.id, record.session.pid, view.name, record.renewal.state,
        [job for job in (each.record() for each in held) if job.session == session],
        instant(later[0]) if is_leaving(record) and len(later) == 1 else None,
    )  # fmt: skip


def _server(
    visit: Visit, view: ServerView, state: ServerState, jobs: Sequence[Job[Any]], started: Mapping[str, int],
    *, is_cut: bool = False, is_only: bool = False,
) -> _Server:  # fmt: skip
    now = visit.now_micros
    living = view.living(now)
    records_of = Counter(job.record().session for job in jobs)
    pids = {one.session.id: one.session.pid for one in view.sessions}
    running = []
    for job in jobs[:_SLOTS]:
        record, started_at = job.record(), started.get(job.id)
        is_deleted = record.is_stopping
        since = instant(
            started_at
            or (record.started_at if is_deleted else None)
            or record.claimed_at
            or record.changed_at
        )
        running.append(
            _Running(
                job.id, job.task, pids.get(record.session or ""), since, started_at is not None or is_deleted,
                is_deleted,
            )
        )  # fmt: skip
    # a server claims a few more jobs than it has slots; these jobs wait briefly in the server
    runs = sum(job.id in started or job.record().is_stopping for job in jobs)
    taken = runs + min(len(jobs) - runs, max(0, view.workers - runs))
    reported = view.busy if living and is_cut else 0
    more = max(len(jobs), reported) - len(running)
    free = max(view.workers - len(running) - more, 0) if living else 0
    drawn = min(free, _SLOTS - len(running))
    sessions = []
    for one in living or view.sessions:
        renewal, workers = one.renewal, one.session.workers
        busy = renewal.busy if is_cut else min(records_of[one.session.id], workers)
        workers = busy if is_leaving(one) else workers  # a replaced process claims no jobs for idle workers
        sessions.append(
            _ServerProcess(
                one.session.pid, renewal.state, workers, busy, renewal.cpu_percent, renewal.rss_bytes,
                renewed_at(one, now), one.session.timeout_seconds, is_leaving(one),
            )
        )  # fmt: skip
    busy = max(taken, reported) if living else 0
    return _Server(view, state, busy, sessions, running, more, drawn, free - drawn, is_only)


def _question(visit: Visit, order: str, name: str, running: int, *, is_only: bool) -> str:
    """Return the confirmation question for quieting or stopping a server, with its jobs and the effects."""
    only = "_only" if is_only else ""
    question = visit.text(f"servers.{order}{only}_confirm", server=name)
    if order == "quiet" or not running:
        return question
    # a server does not report its grace time, so use the setting of the dashboard's own app
    grace = span(visit.fire.settings.grace)
    return f"{question} {visit.text('servers.stop_running', count=running, grace=grace)}"


def end_question(visit: Visit, process: WorkerProcess) -> str:
    """Return the confirmation question for ending a worker process, which names its running jobs."""
    named = ", ".join(f"{task_name(job.task)} {short_id(job.id)}" for job in process.jobs[:_NAMED])
    more = len(process.jobs) - _NAMED
    if more > 0:
        named = visit.text("servers.named_and_more", jobs=named, count=more)
    question = visit.text("servers.end_confirm", pid=process.pid, server=process.server)
    if not process.jobs:
        return f"{question} {visit.text('servers.end_alone')}"
    grace = span(visit.fire.settings.grace)  # see `_question`
    return f"{question} {visit.text('servers.end_others', count=len(process.jobs), jobs=named, grace=grace)}"


def end_worker_process(visit: Visit) -> Response:
    """End the worker process; another one replaces it."""
    session = visit.form.value(SESSION)
    process = worker_process(visit, visit.fire.servers.list(), session)
    if process is not None:
        confirmation = confirmation_page(
            visit, end_question(visit, process), visit.text("servers.end"), section="servers"
        )  # fmt: skip
        if confirmation is not None:
            return confirmation
    ended = end_process(visit, session)
    return visit.done(
        visit.text("servers.requested_end", pid=ended.session.pid, server=ended.session.server), to="/servers"
    )


def order_server(visit: Visit) -> Response:
    """Order the server, at its next heartbeat, to claim no more jobs, to resume, or to stop."""
    order = visit.form.value(ORDER)
    server = server_of(visit)
    if order == "stop":
        servers, now = visit.fire.servers.list(), visit.now_micros
        is_only = not any(one.id != server.id and one.state_at(now).is_listening for one in servers)
        question = _question(visit, order, server.name, server.busy, is_only=is_only)
        confirmation = confirmation_page(visit, question, visit.text("servers.stop"), section="servers")
        if confirmation is not None:
            return confirmation
    send_order(visit, server, order)
    return visit.done(visit.text(f"servers.requested_{order}", server=server.name), to="/servers")


ROUTES = (
    Route("GET", "/servers", Permission.READ, show_servers, (_AFTER,)),
    Route("POST", "/servers/order", Permission.STOP_SERVER, order_server, form=(SERVER, ORDER)),
    Route("POST", "/servers/end-process", Permission.STOP_SERVER, end_worker_process, form=(SESSION,)),
)
