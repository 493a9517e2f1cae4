"""What a list of jobs is asked for, chip by chip, and what a storage can look up of it.

`/jobs?state=failed&task=shop.mail.send&error=Timeout` is read into `Chips`; `plan` splits them into a
`JobFilter`, which the storage answers, and tests of each job that it finds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs

from firelock import StorageError, StorageUnavailable
from firelock.storage import JobFilter, JobRecord, State
from firelock_dashboard.formatting import micros, task_name
from firelock_dashboard.problems import BadRequest

if TYPE_CHECKING:
    from firelock import Firelock, JsonValue
    from firelock_dashboard.fields import SentFields

__all__ = [
    "ARGUMENT",
    "COUNTED",
    "LIST_FIELDS",
    "ROWS",
    "SECONDS",
    "Age",
    "Chip",
    "Chips",
    "JobsFound",
    "KnownTasks",
    "SearchPlan",
    "argument_at",
    "count_up_to",
    "every_match",
    "find_page",
    "is_found",
    "plan",
    "read_typed",
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
    def read(cls, fields: SentFields, *, is_retrying: bool = False) -> Chips:
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


def _several(fields: SentFields, name: str, limit: int) -> tuple[str, ...]:
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
class SearchPlan:
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
    chips: Chips, now: datetime, known: KnownTasks, arguments: Arguments, *, by_due: bool = False,
    masked: Callable[[str], str] = str,
) -> SearchPlan:  # fmt: skip
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
    return SearchPlan(where, tuple(tests), contains, is_whole, by_tag, several)


def _task(text: str | None, known: KnownTasks) -> tuple[str | None, tuple[str, ...]]:
    """Return the one task that a text names, or the text itself, and which others it may name."""
    if text is None:
        return None, ()
    named = known.named(text)
    return (named[0], ()) if len(named) == 1 else (text, tuple(named))


def _made_tag(wanted: str, task: str | None, known: KnownTasks) -> str | None:
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
    return None if moment is None else micros(moment)


_TYPED = re.compile(r'(?:(?P<name>[a-z]+(?:\.[\w.*-]+)?):)?(?:"(?P<quoted>[^"]*)"?|(?P<plain>\S+))')
_LIKE_ID = re.compile(r"(?=[0-9a-f-]*\d)[0-9a-f][0-9a-f-]{5,63}")
_RETRYING = "retrying"


@attrs.frozen
class KnownTasks:
    """What is known of tasks: their names, and the templates that make tags of their arguments."""

    templates: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)  # by task

    def named(self, text: str) -> list[str]:
        """Return the tasks that a text may name: the one called so in full, else all with that end."""
        if text in self.templates:
            return [text]
        return sorted(name for name in self.templates if task_name(name) == text or name.endswith(f".{text}"))


_NAMES = {
    "state": "state", "is": "state", "task": "task", "queue": "queue", "tag": "tag", "server": "server",
    "arg": "arg", "args": "arg", "error": "error", "id": "id", "created": "created", "age": "created",
    "since": "since", "until": "until", "recurring": "recurring", "parent": "parent",
    "fingerprint": "fingerprint",
}  # fmt: skip
_REPEATED = frozenset({"tag", "arg"})


def read_typed(
    text: str, known: KnownTasks, former: Mapping[str, object] | None = None
) -> list[tuple[str, str]]:
    """Return typed text as pairs for a query, added to those that hold already; a later one takes the place.

    `name:value` is a chip, quotes keep blanks. Text without a name is a task that is called so, else a state,
    else the start of an id, else words of an error.
    """
    single = {name: str(value) for name, value in (former or {}).items() if value and name not in _REPEATED}
    several = {name: [*_texts((former or {}).get(name))] for name in sorted(_REPEATED)}
    words: list[str] = []
    for name, value in _tokens(text):
        if name in _REPEATED:
            several[name].append(value)
        elif name is not None:
            single[name] = value
        else:
            found = _guess(value, known)
            if found is None:
                words.append(value)
            else:
                single[found[0]] = found[1]
    if words:
        single["error"] = " ".join(words)
    return [
        *single.items(),
        *((name, value) for name, values in several.items() for value in dict.fromkeys(values)),
    ]


def _texts(value: object) -> Sequence[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else []


def _tokens(text: str) -> Iterator[tuple[str | None, str]]:
    for token in _TYPED.finditer(text):
        name, value = token["name"], token["quoted"] if token["quoted"] is not None else token["plain"]
        head, _, inner = (name or "").partition(".")
        if head in {"arg", "args"} and inner:
            yield "arg", f"{inner}:{value}"
        elif name in _NAMES:
            if value:
                yield _NAMES[name], value
        else:
            yield None, token[0] if name else value


def _guess(word: str, known: KnownTasks) -> tuple[str, str] | None:
    if known.named(word):
        return "task", word
    if word in {*State, _RETRYING}:
        return "state", word
    return ("id", word) if _LIKE_ID.fullmatch(word) else None


ROWS = 10_000
"""So many jobs are looked at for one page."""

SECONDS = 0.06
"""So long is searched for one page, a first look apart; the rest of the page needs its time as well."""

COUNTED = 10_000

_CHUNK = 500
_LOOK = 100  # jobs from one look at the clock to the next: what any page looks at, however slow the machine
_CURSOR_LIMIT = 600
_PLACE = re.compile(r"(?P<page>.*)\|(?P<at>-?\d{1,18})\|(?P<id>[^|]{1,200})", re.DOTALL)


@attrs.frozen
class JobsFound:
    """A page of jobs as far as was searched."""

    jobs: list[JobRecord]
    cursor: str | None  # opens what lies behind; None where all has been seen
    looked_at: int  # jobs that were looked at; those of the page where each that was found is meant
    is_cut: bool  # the search ended at its bounds: there may be more though the page is not full
    last_at: int | None = None  # where in the list's order it ended, in micros


def find_page(
    fire: Firelock, plan: SearchPlan, *, limit: int, cursor: str | None, oldest_first: bool = False,
    seconds: float = SECONDS, monotonic: Callable[[], float] = time.monotonic,
) -> JobsFound:  # fmt: skip
    """Return up to `limit` jobs that the plan means, behind the cursor.

    Raises:
        BadRequest: no page of this filter gave the cursor.
    """
    if cursor is not None and len(cursor) > _CURSOR_LIMIT:
        raise BadRequest("cursor is none that a page gave; leave it out to start with the newest.")
    search = _Search(fire, plan, oldest_first=oldest_first)
    try:
        return search.page(limit, cursor, monotonic() + seconds, monotonic)
    except StorageUnavailable:
        raise
    except StorageError as error:
        message = "cursor belongs to no page of this filter; leave it out to start with the newest."
        raise BadRequest(message) from error


class _Search:
    """One walk along the storage's pages."""

    def __init__(self, fire: Firelock, plan: SearchPlan, *, oldest_first: bool) -> None:
        self._fire = fire
        self._plan = plan
        self._oldest_first = oldest_first
        self._is_by_change = plan.where.state is not None
        self._is_by_due = bool(plan.where.by_due)

    def page(self, limit: int, cursor: str | None, until: float, monotonic: Callable[[], float]) -> JobsFound:
        """Return a page; a cursor of ours names a page of the storage and the last job seen of it."""
        tests = bool(self._plan.tests)
        at, behind = _read_cursor(cursor) if tests else (cursor, None)
        found: list[JobRecord] = []
        looked_at, last = 0, None
        while True:
            began = monotonic()
            # Where every job that is found is meant, what is missing is asked for and no more.
            page = self._fire.jobs.page(
                self._plan.where, limit=_CHUNK if tests else limit - len(found), cursor=at,
                oldest_first=self._oldest_first,
            )  # fmt: skip
            for handle in page:
                record = handle.record()
                if behind is not None and not self._is_behind(record, behind):
                    continue
                looked_at, last = looked_at + 1, record
                if self._plan.accepts(record):
                    found.append(record)
                    if len(found) == limit and tests:
                        return self._found(
                            found, self._cursor_in(at, record), looked_at, record, is_cut=False
                        )
                if tests and looked_at % _LOOK == 0 and monotonic() >= until:
                    return self._found(found, self._cursor_in(at, record), looked_at, record, is_cut=True)
            is_rest_empty = (
                behind is not None and looked_at == 0
            )  # the former part ended at the page's last job
            at, behind = page.cursor, None
            if at is None or len(found) >= limit:
                return self._found(found, self._cursor_at(at), looked_at, last, is_cut=False)
            if looked_at >= ROWS or (_is_over(began, monotonic(), until) and not is_rest_empty):
                return self._found(found, self._cursor_at(at), looked_at, last, is_cut=True)

    def _found(
        self,
        jobs: list[JobRecord],
        cursor: str | None,
        looked_at: int,
        last: JobRecord | None,
        *,
        is_cut: bool,
    ) -> JobsFound:
        return JobsFound(jobs, cursor, looked_at, is_cut, None if last is None else self._time(last))

    def _time(self, record: JobRecord) -> int:
        if self._is_by_due:
            return record.due_at or 0
        return record.changed_at if self._is_by_change else record.created_at

    def _is_behind(self, record: JobRecord, place: tuple[int, str]) -> bool:
        here = (self._time(record), record.id)
        return here > place if self._oldest_first else here < place

    def _cursor_in(self, at: str | None, record: JobRecord) -> str:
        return f"{at or ''}|{self._time(record)}|{record.id}"

    def _cursor_at(self, at: str | None) -> str | None:
        return at if at is None or not self._plan.tests else f"{at}|0|-"


def _is_over(began: float, now: float, until: float) -> bool:
    """Tell whether a further look, that takes as long as the last ends too late: it may find nothing."""
    return now + (now - began) > until


def _read_cursor(cursor: str | None) -> tuple[str | None, tuple[int, str] | None]:
    if cursor is None:
        return None, None
    place = _PLACE.fullmatch(cursor)
    if place is None:
        raise BadRequest("cursor is none that a page gave; leave it out to start with the newest.")
    behind = None if place["id"] == "-" else (int(place["at"]), place["id"])
    return place["page"] or None, behind


def every_match(
    fire: Firelock, plan: SearchPlan, limit: int, *, oldest_first: bool = False
) -> Iterator[JobRecord]:
    """Yield up to `limit` jobs that the plan means, in the list's order, in pages as they are taken."""
    cursor, left = None, limit
    while left > 0:
        page = fire.jobs.page(plan.where, limit=_CHUNK, cursor=cursor, oldest_first=oldest_first)
        for handle in page:
            record = handle.record()
            if plan.accepts(record):
                yield record
                left -= 1
                if left == 0:
                    return
        cursor = page.cursor
        if cursor is None:
            return


def count_up_to(
    fire: Firelock,
    plan: SearchPlan,
    *,
    seconds: float = SECONDS,
    monotonic: Callable[[], float] = time.monotonic,
) -> tuple[int, bool]:
    """Return how many jobs the plan means, and whether that is all of them; looks at most at `COUNTED`."""
    until, counted, looked_at, cursor = monotonic() + seconds, 0, 0, None
    while True:
        began = monotonic()
        page = fire.jobs.page(plan.where, limit=_CHUNK, cursor=cursor)
        looked_at += len(page)
        counted += sum(plan.accepts(handle.record()) for handle in page) if plan.tests else len(page)
        cursor = page.cursor
        if cursor is None:
            return counted, True
        if looked_at >= COUNTED or _is_over(began, monotonic(), until):
            return counted, False
