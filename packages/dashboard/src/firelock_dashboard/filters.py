"""What a list of jobs is asked for, chip by chip, and what a storage can look up of it.

`/jobs?state=failed&task=shop.mail.send&error=Timeout` is read into `Chips`; `plan` splits them into a
`JobFilter`, which the storage answers, and tests of each job that it finds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs

from firelock.storage import JobFilter, JobRecord, State
from firelock_dashboard.problems import BadRequest
from firelock_dashboard.typed import Known

if TYPE_CHECKING:
    from firelock import JsonValue
    from firelock_dashboard.query import Fields

__all__ = [
    "ARGUMENT",
    "LIST_FIELDS",
    "Age",
    "Chip",
    "Chips",
    "Plan",
    "argument_at",
    "is_found",
    "plan",
]

# The fields of a query that asks for a list of jobs, but for the state: one list has its own.
LIST_FIELDS = (
    "task", "queue", "tag+", "server", "arg+", "error", "id", "created", "since", "until", "recurring",
    "parent", "fingerprint", "limit", "order", "cursor", "at",
)  # fmt: skip
_TEXT = 200
_TAGS = 10
_ARGUMENTS = 5
ARGUMENT = re.compile(r"(?P<path>[A-Za-z_*][\w.*-]{0,99}):(?P<value>.*)", re.DOTALL)
_AGE = re.compile(r"(?P<sign>[<>])(?P<number>\d{1,6})(?P<unit>[smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

Arguments = Callable[[JobRecord], "JsonValue"]
"""Returns a job's arguments as they may be shown; None where they may not, or cannot be read."""


@attrs.frozen
class Age:
    """Younger or older than a span: `<30m`, `>2h`."""

    text: str
    is_older: bool
    span: timedelta

    @classmethod
    def read(cls, text: str) -> Age:
        """Return the age that is written so.

        Raises:
            BadRequest: it is none.
        """
        found = _AGE.fullmatch(text)
        if found is None:
            message = (
                f"created={text[:40]!r} is no age; write <30m for younger, >2h for older (s, m, h, d, w)."
            )
            raise BadRequest(message)
        span = timedelta(seconds=int(found["number"]) * _UNITS[found["unit"]])
        return cls(text, found["sign"] == ">", span)


@attrs.frozen
class Chip:
    """One condition as it is shown, and the query without it."""

    name: str
    value: str
    rest: Mapping[str, object]


@attrs.frozen
class Chips:
    """Everything that a list is asked for; what is None or empty is not asked."""

    state: State | None = None
    is_retrying: bool = False  # the list of retries; then no other state is asked
    task: str | None = None
    queue: str | None = None
    tags: tuple[str, ...] = ()
    server: str | None = None
    arguments: tuple[str, ...] = ()  # `path:value`, or any text
    error: str | None = None
    id: str | None = None
    created: Age | None = None
    since: datetime | None = None  # by the order of the list
    until: datetime | None = None
    recurring: str | None = None
    parent: str | None = None
    fingerprint: str | None = None

    @classmethod
    def read(cls, fields: Fields, *, is_retrying: bool = False) -> Chips:
        """Return the chips of a query.

        Raises:
            BadRequest: a field is wrong.
        """
        created = fields.maybe("created", limit=20)
        tags, arguments = _several(fields, "tag", _TAGS), _several(fields, "arg", _ARGUMENTS)
        since, until = fields.moment("since"), fields.moment("until")
        if since is not None and until is not None and since >= until:
            raise BadRequest("since is not before until; swap them, or leave one out.")
        return cls(
            None if is_retrying else fields.choice("state", State),
            is_retrying,
            fields.maybe("task", limit=_TEXT), fields.maybe("queue", limit=_TEXT), tags,
            fields.maybe("server", limit=_TEXT), arguments, fields.maybe("error", limit=_TEXT),
            fields.maybe("id", limit=_TEXT), None if created is None else Age.read(created), since, until,
            fields.maybe("recurring", limit=_TEXT), fields.maybe("parent", limit=_TEXT),
            fields.maybe("fingerprint", limit=_TEXT),
        )  # fmt: skip

    @property
    def path(self) -> str:
        """The page that shows them."""
        return "/retries" if self.is_retrying else "/jobs"

    def query(self) -> dict[str, object]:
        """Return them as the fields of a query, in one order whatever the order in which they were typed."""
        return {
            "state": self.state, "task": self.task, "queue": self.queue, "tag": self.tags,
            "server": self.server, "arg": self.arguments, "error": self.error, "id": self.id,
            "created": self.created and self.created.text, "since": _iso(self.since),
            "until": _iso(self.until), "recurring": self.recurring, "parent": self.parent,
            "fingerprint": self.fingerprint,
        }  # fmt: skip

    def shown(self) -> list[Chip]:
        """Return every condition but the state, which the tabs show, each with the query that lacks it."""
        query = {name: value for name, value in self.query().items() if value}
        chips: list[Chip] = []
        for name, value in query.items():
            if isinstance(value, tuple):
                for one in value:
                    others = tuple(other for other in value if other != one)
                    chips.append(Chip(name, one, {**query, name: others}))
            elif name != "state":
                chips.append(Chip(name, str(value), {**query, name: None}))
        return chips

    @property
    def is_bare(self) -> bool:
        """Tell whether nothing but a state is asked for."""
        return not self.shown()


def _several(fields: Fields, name: str, limit: int) -> tuple[str, ...]:
    values = [value.strip() for value in fields.every(name, limit=limit)]
    for value in values:
        if len(value) > _TEXT or "\0" in value:
            raise BadRequest(
                f"{name} has a value of {len(value)} characters; give up to {_TEXT}, without NUL."
            )
    return tuple(dict.fromkeys(value for value in values if value))


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


# ---- what is looked up and what is tested ----------------------------------------------------------------


@attrs.frozen
class Plan:
    """How chips are answered: by a filter of the storage, and by tests of the jobs that it finds."""

    where: JobFilter
    tests: tuple[Callable[[JobRecord], bool], ...] = ()
    contains: Mapping[str, str] = attrs.field(factory=dict)  # the tests, where an operation knows them too
    is_whole: bool = True  # an operation can be told all of it
    by_tag: str | None = None  # an argument is looked up by this tag
    several_tasks: tuple[str, ...] = ()  # the task's name is that of these

    def accepts(self, job: JobRecord) -> bool:
        """Tell whether a job that the filter found is meant."""
        return all(test(job) for test in self.tests)


def plan(
    chips: Chips, now: datetime, known: Known, arguments: Arguments, *, by_due: bool = False,
    masked: Callable[[str], str] = str,
) -> Plan:  # fmt: skip
    """Return how these chips are answered at this instant; pure.

    An argument is looked up by a tag where the tasks that may be meant make a tag of it. The age is a window
    of the list where the list is in order of creation, else a test. A list by due has its windows by due,
    which no operation knows. Errors are searched as `masked` shows them: what is secret is not found.
    """
    tests: list[Callable[[JobRecord], bool]] = []
    contains: dict[str, str] = {}
    since, until = _micros(chips.since), _micros(chips.until)
    is_whole = len(chips.tags) <= 1 and not (by_due and (since or until))
    is_by_creation = chips.state is None and not chips.is_retrying
    if chips.created is not None:
        edge = _micros(now - chips.created.span) or 0
        if not is_by_creation:
            is_whole = False
            tests.append(_is_created_before(edge) if chips.created.is_older else _is_created_since(edge))
        if chips.created.is_older and is_by_creation:
            until = edge if until is None else min(until, edge)
        if not chips.created.is_older and not by_due:  # what was created since then changed since then
            since = edge if since is None else max(since, edge)
    tests += [_is_tagged(tag) for tag in chips.tags[1:]]
    task, several = _task(chips.task, known)
    tag = next(iter(chips.tags), None)
    by_tag = None
    for wanted in chips.arguments:
        tests.append(_has_argument(wanted, arguments))
        made = _made_tag(wanted, task, known)
        if made is not None and tag is None:
            tag = by_tag = made
        is_plain = ARGUMENT.fullmatch(wanted) is None
        is_whole = is_whole and is_plain and "argument" not in contains
        contains["argument"] = wanted
    if chips.error is not None:
        tests.append(_has_error(chips.error, masked))
        contains["error"] = chips.error
    where = JobFilter(
        State.SCHEDULED if chips.is_retrying else chips.state, task, chips.queue, tag, chips.server,
        chips.fingerprint, chips.recurring, chips.id, chips.parent, since, until, chips.is_retrying or None,
        by_due=by_due or None,
    )  # fmt: skip
    return Plan(where, tuple(tests), contains, is_whole, by_tag, several)


def _task(text: str | None, known: Known) -> tuple[str | None, tuple[str, ...]]:
    """Return the one task that a text names, or the text itself, and which others it may name."""
    if text is None:
        return None, ()
    named = known.named(text)
    return (named[0], ()) if len(named) == 1 else (text, tuple(named))


def _made_tag(wanted: str, task: str | None, known: Known) -> str | None:
    """Return the tag that the tasks make of this argument alone; None where any of them makes another."""
    found = ARGUMENT.fullmatch(wanted)
    if found is None or not found["value"]:
        return None
    field = f"{{{found['path']}}}"
    tasks = [task] if task is not None else list(known.templates)
    made = {
        template.replace(field, found["value"]).replace("{{", "{").replace("}}", "}")
        for name in tasks
        for template in known.templates.get(name, ())
        if template.count("{") == 1 and field in template
    }
    return made.pop() if len(made) == 1 else None


# ---- tests -----------------------------------------------------------------------------------------------


def _is_created_before(edge: int) -> Callable[[JobRecord], bool]:
    return lambda job: job.created_at < edge


def _is_created_since(edge: int) -> Callable[[JobRecord], bool]:
    return lambda job: job.created_at >= edge


def _is_tagged(tag: str) -> Callable[[JobRecord], bool]:
    return lambda job: tag in job.tags


def shown_holds(
    contains: Mapping[str, str], arguments: Arguments, masked: Callable[[str], str]
) -> Callable[[JobRecord], bool]:
    """Return what tells whether the texts that an operation wants are in what is shown of a job.

    An operation looks into what is stored, in which secrets can be read.
    """
    tests = []
    if "argument" in contains:
        tests.append(_has_argument(contains["argument"], arguments))
    if "error" in contains:
        tests.append(_has_error(contains["error"], masked))
    return lambda job: all(test(job) for test in tests)


def _has_error(text: str, masked: Callable[[str], str]) -> Callable[[JobRecord], bool]:
    wanted = text.casefold()

    def test(job: JobRecord) -> bool:
        # What is not in the stored text is not in the masked one either: most jobs are told by that.
        error = job.error
        if error is None or wanted not in f"{error.type}: {error.message}".casefold():
            return False
        return wanted in f"{error.type}: {masked(error.message)}".casefold()

    return test


def _has_argument(wanted: str, arguments: Arguments) -> Callable[[JobRecord], bool]:
    path, colon, value = wanted.partition(":") if ARGUMENT.fullmatch(wanted) else ("", "", wanted)

    def test(job: JobRecord) -> bool:
        # What is not in the stored JSON is in no argument: most jobs are told by that, without reading it.
        is_told = job.serializer == "json" and value.isascii() and value.isalnum()
        if is_told and value.casefold() not in job.arguments.casefold():
            return False
        given = arguments(job)
        if given is None:
            return False
        return is_found(argument_at(given, path), value) if colon else is_found(given, value)

    return test


def argument_at(arguments: JsonValue, path: str) -> JsonValue:
    """Return what stands at a path such as `user.id` or `items.0`; None where nothing does."""
    at = arguments
    for step in path.split("."):
        if isinstance(at, dict) and step in at:
            at = at[step]
        elif isinstance(at, list) and step.isascii() and step.isdigit() and int(step[:6]) < len(at):
            at = at[int(step[:6])]
        else:
            return None
    return at


def is_found(value: JsonValue, text: str) -> bool:
    """Tell whether a leaf is this text, or in a list or object any text or key holds it."""
    if isinstance(value, dict):
        wanted = text.casefold()
        return any(wanted in name.casefold() or _holds(one, wanted) for name, one in value.items())
    if isinstance(value, list):
        return any(_holds(one, text.casefold()) for one in value)
    return value is not None and _leaf(value).casefold() == text.casefold()


def _holds(value: JsonValue, wanted: str) -> bool:
    if isinstance(value, dict | list):
        return is_found(value, wanted)
    return wanted in _leaf(value).casefold()


def _leaf(value: JsonValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def _micros(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
