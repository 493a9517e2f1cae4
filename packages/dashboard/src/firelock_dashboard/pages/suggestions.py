"""Data for job lists: names of tasks, completions of typed text, and start times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from firelock.storage import JobFilter, State
from firelock_dashboard.stats.job_search import KnownTasks
from firelock_dashboard.web.formatting import task_name

if TYPE_CHECKING:
    from firelock.storage import JobRecord
    from firelock_dashboard.web.request import Visit

_SHOWN = 12
_NEWEST = 100  # the number of newest jobs whose tags and tasks are offered
_GROUPS = 30
_LOGS = 24  # the maximum number of jobs whose log is searched for the start time
_LINES = 1_000
_CHIPS = (
    "state:",
    "task:",
    "queue:",
    "tag:",
    "error:",
    "args.",
    "created:",
    "server:",
    "id:",
    "recurring:",
    "signal:",
)
_AGES = ("<15m", "<1h", "<24h", ">1h", ">24h")


@attrs.frozen
class Suggestion:
    """One completion."""

    text: str  # the whole text with the completion
    shown: str
    kind: str  # a key of jobs.toml for the label next to the text
    is_whole: bool = True  # whether the text is complete, so that it can be submitted


def known_tasks(visit: Visit) -> KnownTasks:
    """Return the tasks of this process and the tasks that servers have reported."""
    templates = {info.name: info.tags for info in visit.fire.tasks()}
    entries = visit.fire.catalogue.list()
    for entry in entries:
        templates.setdefault(entry.name, tuple(entry.tags))
    parameters = frozenset(one.name for entry in entries for one in entry.parameters or ())
    return KnownTasks(templates, parameters)


def starts(visit: Visit, jobs: Iterable[JobRecord]) -> dict[str, int]:
    """Return the start times of running jobs, in micros by id.

    Jobs that might be claimed but not started are left out.

    The time of a start is stored about a second later. Until then, a job is known to have started if it has
    reported progress since its claim, or has logged in this attempt; the logs of the first 24 such jobs are
    read.
    """
    running = [job for job in jobs if job.state is State.PROCESSING]
    found = {job.id: job.started_at for job in running if job.started_at is not None}
    unknown = [job for job in running if job.id not in found]
    if not unknown:
        return found
    storage = visit.fire.storage
    for record in storage.get([job.id for job in unknown]):
        if (
            record is not None
            and record.progress is not None
            and record.progress.at >= (record.claimed_at or 0)
        ):
            found[record.id] = record.progress.at
    for job in [job for job in unknown if job.id not in found][:_LOGS]:
        lines = storage.read_log(job.id, limit=1 if job.attempt == 1 else _LINES)
        first = next((line for line in lines if line.attempt == job.attempt), None)
        if first is not None:
            found[job.id] = first.at
    return found


def suggestions(visit: Visit, text: str) -> list[Suggestion]:
    """Return completions of the last word of a text: names of chips, then values of a chip."""
    head, last = _split(text)
    name, colon, value = last.partition(":")
    found = (
        _values(visit, name, value.strip('"').casefold()) if colon else _beginnings(visit, last.casefold())
    )
    return [attrs.evolve(one, text=f"{head}{one.text}") for one in islice(found, _SHOWN)]


def _split(text: str) -> tuple[str, str]:
    """Return the part before the word that is being typed, and the word."""
    is_quoted = text.count('"') % 2 == 1
    start = text.rfind(" ", 0, text.rindex('"') if is_quoted else len(text)) + 1
    return text[:start], text[start:]


def _beginnings(visit: Visit, typed: str) -> Iterator[Suggestion]:
    for chip in _CHIPS:
        if chip.startswith(typed):
            yield Suggestion(chip, chip, "chip", is_whole=False)
    if typed:
        for state in State:
            if state.startswith(typed):
                yield Suggestion(f"state:{state}", f"state:{state}", "state")
        for task in task_names(visit):
            if typed in task.casefold():
                yield Suggestion(f"task:{task}", task, "task")
        for queue in visit.dashboard.counts().by_queue:
            if queue.casefold().startswith(typed):
                yield Suggestion(f"queue:{_quoted(queue)}", queue, "queue")


def _values(visit: Visit, name: str, typed: str) -> Iterator[Suggestion]:
    seen = set[str]()
    for value in _known_values(visit, name):
        if value not in seen and typed in value.casefold():
            seen.add(value)
            yield Suggestion(f"{name}:{_quoted(value)}", value, name)


def _known_values(visit: Visit, name: str) -> Iterable[str]:
    sources: dict[str, Callable[[], Iterable[str]]] = {
        "state": lambda: [*State, "retrying"],
        "task": lambda: task_names(visit),
        "queue": lambda: sorted(visit.dashboard.counts().by_queue),
        "server": lambda: [server.name for server in visit.fire.servers.list()],
        "tag": lambda: [tag for job in newest_jobs(visit) for tag in job.tags],
        "error": lambda: [group.type for group in visit.dashboard.watch.failure_groups(_GROUPS)],
        "created": lambda: _AGES,
        "recurring": lambda: [one.id for one in visit.fire.recurring.list(limit=_NEWEST)],
    }
    return sources.get(name, tuple)()


def newest_jobs(visit: Visit) -> list[JobRecord]:
    """Return the hundred newest jobs, whose tags and tasks are offered."""
    return [job.record() for job in visit.fire.jobs.page(JobFilter(), limit=_NEWEST)]


def task_names(visit: Visit, newest: Iterable[JobRecord] | None = None) -> list[str]:
    """Return the known tasks and the tasks of the newest jobs, ordered by the last part of the name."""
    known = set(known_tasks(visit).templates)
    known.update(job.task for job in (newest_jobs(visit) if newest is None else newest) if not job.is_batch)
    return sorted(known, key=lambda task: (task_name(task), task))


def _quoted(value: str) -> str:
    return f'"{value}"' if " " in value else value
