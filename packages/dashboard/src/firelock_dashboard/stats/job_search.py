"""The search of a job list: its conditions, called chips, and the plan by which the storage finds the jobs.

`/jobs?state=failed&task=shop.mail.send&error=Timeout` is parsed into `Chips`. `plan` splits the chips into a
`JobFilter`, which the storage applies, and tests that are applied to each job found.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs

from firelock import StorageError, StorageUnavailable
from firelock.storage import JobFilter, JobRecord, MemoKind, State
from firelock_dashboard.problems import BadRequest
from firelock_dashboard.web.fields import SPAN_UNITS, Choice, Field, Moment, Text, Texts
from firelock_dashboard.web.formatting import micros, task_name

if TYPE_CHECKING:
    from firelock import Firelock, JobPage, JsonValue
    from firelock_dashboard.web.fields import SentFields

_ORDER = (
    "state", "task", "queue", "tag", "server", "arg", "error", "id", "created", "since", "until", "recurring",
    "parent", "batch", "fingerprint", "signal",
)  # fmt: skip
ANY_SIGNAL = "*"
ARGUMENT = re.compile(r"(?P<path>[A-Za-z_*][\w.*-]{0,99}):(?P<value>.*)", re.DOTALL)
_MICROSECOND = timedelta(microseconds=1)
_FIRST = micros(datetime.min.replace(tzinfo=UTC))  # no time is before the year 1
_AGE = re.compile(r"([<>])([0-9]{1,6})([smhdw])")
Arguments = Callable[[JobRecord], "JsonValue"]
"""A function that returns a job's redacted arguments; None if they may not be seen or cannot be read."""


@attrs.frozen
class Age:
    """An age below or above a duration: `<30m`, `>2h`."""

    text: str
    is_older: bool
    span: timedelta


@attrs.frozen
class AgeField(Field[Age]):
    """A query field that contains an age."""

    def parse(self, text: str, name: str) -> Age:
        """See `Field.parse`."""
        found = _AGE.fullmatch(text)
        if found is None:
            raise BadRequest(
                f"{name} must be an age such as <30m (younger) or >2h (older) in s, m, h, d or w, "
                f"got {text[:40]!r}."
            )
        return Age(text, found[1] == ">", timedelta(seconds=int(found[2]) * SPAN_UNITS[found[3]]))

    def schema(self) -> dict[str, Any]:
        """See `Field.schema`."""
        return {"type": "string", "pattern": f"^{_AGE.pattern}$"}


# The fields of a job list's query.
STATE = Choice("state", choices=tuple(State))
_TEXTS = tuple(  # the chips whose value is a plain string
    Text(name)
    for name in (
        "task", "queue", "server", "error", "id", "recurring", "parent", "batch", "fingerprint",
        "signal",
    )
)  # fmt: skip
_TAGS, _ARGUMENTS = Texts("tag", most=10), Texts("arg", most=5)
_CREATED = AgeField("created")
_SINCE, _UNTIL = Moment("since"), Moment("until")
CHIP_FIELDS: tuple[Field[Any], ...] = (*_TEXTS, _TAGS, _ARGUMENTS, _CREATED, _SINCE, _UNTIL)
"""All fields except the state, which the list of retries does not have."""


@attrs.frozen
class Chip:
    """One condition as it is displayed, and the query without it."""

    name: str
    value: str
    rest: Mapping[str, object]


@attrs.frozen
class Chips:
    """All conditions of a job list; None or an empty value means that a condition is not set."""

    state: State | None = None
    is_retrying: bool = False  # whether this is the list of retries; if so, `state` is not set
    task: str | None = None
    queue: str | None = None
    tags: tuple[str, ...] = ()
    server: str | None = None
    arguments: tuple[str, ...] = ()  # `path:value`, or any string
    error: str | None = None
    id: str | None = None
    created: Age | None = None
    since: datetime | None = None  # a bound of the time that orders the list
    until: datetime | None = None
    recurring: str | None = None
    parent: str | None = None
    batch: str | None = None
    fingerprint: str | None = None
    signal: str | None = None  # the name of the signal that a job waits for; `*` for any

    @classmethod
    def read(cls, fields: SentFields, *, is_retrying: bool = False) -> Chips:
        """Return the chips of a query.

        Raises:
            BadRequest: If a field is invalid.
        """
        since, until = fields.maybe(_SINCE), fields.maybe(_UNTIL)
        if since is not None and until is not None and since >= until:
            raise BadRequest("since must be before until; swap them, or remove one.")
        return cls(
            state=None if is_retrying else fields.maybe(STATE), is_retrying=is_retrying,
            tags=_several(fields, _TAGS), arguments=_several(fields, _ARGUMENTS),
            created=fields.maybe(_CREATED), since=since, until=until,
            **{field.name: fields.maybe(field) for field in _TEXTS},
        )  # fmt: skip

    @property
    def path(self) -> str:
        """The path of the page that shows the list."""
        return "/retries" if self.is_retrying else "/jobs"

    def query(self) -> dict[str, object]:
        """Return the chips as the fields of a query, in a fixed order."""
        values = {
            "tag": self.tags, "arg": self.arguments, "created": self.created and self.created.text,
            "since": _iso(self.since), "until": _iso(self.until),
        }  # fmt: skip
        return {name: values.get(name, getattr(self, name, None)) for name in _ORDER}

    def shown(self) -> list[Chip]:
        """Return all conditions except the state, which the tabs show; each has the query without it."""
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
        """Whether the list has no condition except a state."""
        return not self.shown()


def _several(fields: SentFields, field: Texts) -> tuple[str, ...]:
    return tuple(dict.fromkeys(fields.maybe(field) or ()))


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


# ---- filters and tests -----------------------------------------------------------------------------------


@attrs.frozen
class SearchPlan:
    """The plan of a search: a filter for the storage, and tests for the jobs that the storage finds."""

    where: JobFilter
    tests: tuple[Callable[[JobRecord], bool], ...] = ()
    contains: Mapping[str, str] = attrs.field(factory=dict)  # the tests that an operation can also run
    is_whole: bool = True  # whether an operation can run the whole plan
    by_tag: str | None = None  # the tag by which an argument is looked up
    several_tasks: tuple[str, ...] = ()  # all tasks with the given name, if there are several

    def accepts(self, job: JobRecord) -> bool:
        """Return whether a job that the filter found matches."""
        return all(test(job) for test in self.tests)

    def time_of(self, job: JobRecord) -> int:
        """Return the time by which the list orders the job, in micros."""
        if self.where.by_due:
            return job.due_at or 0
        return job.created_at if self.where.state is None else job.changed_at


def plan(
    chips: Chips, now: datetime, known: KnownTasks, arguments: Arguments, *, by_due: bool = False,
    masked: Callable[[str], str] = str,
) -> SearchPlan:  # fmt: skip
    """Return the plan of the search for these chips at this time, without any I/O.

    An argument is looked up by a tag if all selected tasks create a tag from it. The age restricts the list's
    period if the list is ordered by creation; otherwise it becomes a test. The period of a list that is
    ordered by due time also refers to due times, which no operation supports. Errors are searched in the form
    that `masked` returns, so that secrets are not found.
    """
    tests: list[Callable[[JobRecord], bool]] = []
    contains: dict[str, str] = {}
    since, until = micros(chips.since), micros(chips.until)
    is_whole = len(chips.tags) <= 1 and not (by_due and (since or until))
    if (age := chips.created) is not None:
        edge = max(_FIRST, micros(now) - age.span // _MICROSECOND)
        if chips.state is not None or chips.is_retrying:
            is_whole = False
            tests.append(lambda job: (job.created_at < edge) is age.is_older)
        elif age.is_older:
            until = min(until or edge, edge)
        if not age.is_older and not by_due:  # a job created since then has also changed since then
            since = max(since or edge, edge)
    tests += [lambda job, tag=tag: tag in job.tags for tag in chips.tags[1:]]  # type: ignore[misc]
    named = known.named(chips.task) if chips.task else ()
    task = named[0] if len(named) == 1 else chips.task
    tag = next(iter(chips.tags), None)
    by_tag = None
    for wanted in chips.arguments:
        made = _made_tag(wanted, task, known)
        if made is not None and tag is None:
            tag = by_tag = made
        is_whole = is_whole and ARGUMENT.fullmatch(wanted) is None and "argument" not in contains
        contains["argument"] = wanted
        tests.append(_has_argument(wanted, arguments))
    if chips.error is not None:
        tests.append(_has_error(chips.error, masked))
        contains["error"] = chips.error
    if chips.signal is not None:
        is_whole = False
        tests.append(_waits_for_signal(chips.signal))
    where = JobFilter(
        State.SCHEDULED if chips.is_retrying else chips.state, task, chips.queue, tag, chips.server,
        chips.fingerprint, chips.recurring, chips.id, chips.parent, since, until, chips.is_retrying or None,
        by_due=by_due or None, batch_id=chips.batch,
    )  # fmt: skip
    return SearchPlan(where, tuple(tests), contains, is_whole, by_tag, tuple(named) if len(named) > 1 else ())


def _made_tag(wanted: str, task: str | None, known: KnownTasks) -> str | None:
    """Return the tag that the selected tasks create from this argument.

    The result is None if any of these tasks creates no tag from it, or if their tags differ.
    """
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


def shown_holds(
    contains: Mapping[str, str], arguments: Arguments, masked: Callable[[str], str]
) -> Callable[[JobRecord], bool]:
    """Return a test that searches for an operation's search strings in the masked data of a job.

    The test is necessary because the operation itself searches the stored data, in which secrets are
    readable.
    """
    tests = []
    if "argument" in contains:
        tests.append(_has_argument(contains["argument"], arguments))
    if "error" in contains:
        tests.append(_has_error(contains["error"], masked))
    return lambda job: all(test(job) for test in tests)


def _waits_for_signal(name: str) -> Callable[[JobRecord], bool]:
    wanted = f"{MemoKind.SIGNAL} {'' if name == ANY_SIGNAL else name}"

    def test(job: JobRecord) -> bool:
        waits_for = job.waits_for or ""
        return waits_for.startswith(wanted) if name == ANY_SIGNAL else waits_for == wanted

    return test


def _has_error(text: str, masked: Callable[[str], str]) -> Callable[[JobRecord], bool]:
    wanted = text.casefold()

    def test(job: JobRecord) -> bool:
        # the stored string is checked first: it rules out most jobs, and only matching strings are masked
        error = job.error
        return error is not None and all(
            wanted in f"{error.type}: {shown(error.message)}".casefold() for shown in (str, masked)
        )

    return test


def _has_argument(wanted: str, arguments: Arguments) -> Callable[[JobRecord], bool]:
    path, _, value = wanted.partition(":") if ARGUMENT.fullmatch(wanted) else ("", "", wanted)

    def test(job: JobRecord) -> bool:
        # this rules out most jobs without decoding: a string that the JSON does not contain is not in any
        # argument
        is_searchable = job.serializer == "json" and value.isascii() and value.isalnum()
        if is_searchable and value.casefold() not in job.arguments.casefold():
            return False
        given = arguments(job)
        return is_found(argument_at(given, path) if path else given, value)

    return test


def argument_at(arguments: JsonValue, path: str) -> JsonValue:
    """Return the value at a path such as `user.id` or `items.0`, or None if the path does not exist."""
    at = arguments
    for key in path.split("."):
        if isinstance(at, dict) and key in at:
            at = at[key]
        elif isinstance(at, list) and key.isascii() and key.isdigit() and int(key[:6]) < len(at):
            at = at[int(key[:6])]
        else:
            return None
    return at


def is_found(value: JsonValue, text: str) -> bool:
    """Return whether a leaf equals this string, or a string or key in the list or object contains it."""
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


_TYPED = re.compile(r'(?:(?P<name>[a-z]+(?:\.[\w.*-]+)?):)?(?:"(?P<quoted>[^"]*)"?|(?P<plain>\S+))')
_LIKE_ID = re.compile(r"(?=[0-9a-f-]*\d)[0-9a-f][0-9a-f-]{5,63}")


@attrs.frozen
class KnownTasks:
    """The known tasks: their names, and the templates that create tags from their arguments."""

    templates: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)  # by task
    parameters: frozenset[str] = frozenset()  # of all tasks

    def named(self, text: str) -> list[str]:
        """Return the tasks to which a string can refer.

        The result is the task with this full name, or else all tasks whose names end with it.
        """
        if text in self.templates:
            return [text]
        return sorted(name for name in self.templates if task_name(name) == text or name.endswith(f".{text}"))

    def argument_of(self, text: str) -> str:
        """Return "customer 200" and "customer=200" as `customer:200`, if a task has that parameter.

        Other strings are returned unchanged.
        """
        match = _NAME_AND_VALUE.fullmatch(text.strip())
        if match is None:
            return text
        by_case = {name.casefold(): name for name in sorted(self.parameters, reverse=True)}
        name = by_case.get(match["name"].casefold())
        return text if name is None else f"{name}:{match['value']}"

    def tags_of(self, text: str) -> list[str]:
        """Return the possible tags for a string: "customer 12", "customer=12" and "12" mean customer:12."""
        tags = (tag for templates in self.templates.values() for tag in templates)
        names = dict.fromkeys(name for tag in tags for name, colon, _ in [tag.partition(":")] if colon)
        if match := _NAME_AND_VALUE.fullmatch(text.strip()):
            by_case = {name.casefold(): name for name in names}
            name = by_case.get(match["name"].casefold())
            return [] if name is None else [f"{name}:{match['value']}"]
        if ":" in text or not _WORD.fullmatch(text):
            return []
        return [f"{name}:{text}" for name in sorted(names)[:_MADE_TAGS]]


_NAMES = {name: name for name in _ORDER} | {"is": "state", "args": "arg", "age": "created"}  # as typed
_NAME_AND_VALUE = re.compile(r"(?P<name>[^\s=:]+)\s*[\s=]\s*(?P<value>[^\s=:]+)")
_WORD = re.compile(r"\S+")
_NUMBER = re.compile(r"\d{1,18}")
_MADE_TAGS = 5  # the maximum number of tags that are looked up for one word
_REPEATED = ("arg", "tag")
_LOOKUPS = 10  # the maximum number of words of one text that are looked up as tags


def read_typed(
    text: str,
    known: KnownTasks,
    current: Mapping[str, object] | None = None,
    kind_of: Callable[[str], str | None] = lambda _: None,
) -> list[tuple[str, str]]:
    """Return typed text as pairs for a query, merged into the current ones.

    A later pair replaces an earlier one. `name:value` is a chip, and quotes preserve spaces. Text without a
    name is the name of a task, or else a state, the start of an id, or words of an error. Words with a colon,
    and a single word, are looked up as exact values before they are searched for in errors. "customer 12",
    "customer=12" and "12" mean the tag customer:12 if a job has it. A single number that is not a tag is
    searched for in arguments.

    Args:
        text: the typed text.
        known: the tasks.
        current: the current pairs.
        kind_of: returns the name of the chip, for example "tag", for which a word is an exact value; called
            at most fifteen times.
    """
    held = {name: value for name, value in (current or {}).items() if value}
    several = {name: list(map(str, held.pop(name, ()))) for name in _REPEATED}  # type: ignore[call-overload]
    single = {name: str(value) for name, value in held.items()}
    words: list[str] = []
    if _NAME_AND_VALUE.fullmatch(text.strip()):
        text = next((tag for tag in known.tags_of(text) if kind_of(tag) == "tag"), text)
    tokens = list(_tokens(text))
    is_alone = len(tokens) == 1
    lookups = 0
    for name, value in tokens:
        meant, value = (name, value) if name else _guess(value, known)  # noqa: PLW2901 - its meaning
        if meant is None and (is_alone or ":" in value) and lookups < _LOOKUPS:
            lookups += 1
            exact = value.replace('"', "")  # region:"north west" is stored without the quotes
            meant = kind_of(exact)
            value = value if meant is None else exact  # noqa: PLW2901
        if meant is None and is_alone:
            meant, value = _guess_value(value, known, kind_of)  # noqa: PLW2901
        if meant is None:
            words.append(value)
        elif meant in several:
            several[meant].append(value)
        else:
            single[meant] = value
    if words:
        single["error"] = " ".join(words)
    repeated = ((name, value) for name, values in several.items() for value in dict.fromkeys(values))
    return [*single.items(), *repeated]


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


def _guess_value(
    word: str, known: KnownTasks, kind_of: Callable[[str], str | None]
) -> tuple[str | None, str]:
    """Return the only tag of jobs with this value, for example customer:200 for "200", or else an argument.

    A word that is not a number is not searched for in arguments, because it is more often part of an error.
    """
    tags = [tag for tag in known.tags_of(word) if kind_of(tag) == "tag"]
    if len(tags) == 1:
        return "tag", tags[0]
    return ("arg" if tags or _NUMBER.fullmatch(word) else None), word


def _guess(word: str, known: KnownTasks) -> tuple[str | None, str]:
    if known.named(word):
        return "task", word
    if word in {*State, "retrying"}:
        return "state", word
    return "id" if _LIKE_ID.fullmatch(word) else None, word


ROWS = 10_000
"""The maximum number of jobs that are examined for one page."""

SECONDS = 0.06
"""The maximum search time for one page in seconds, without the first read; rendering also needs time."""

COUNTED = 10_000

_CHUNK = 500
_CHECK_EVERY = 100  # the number of jobs between two checks of the time, so a page checks at least this many
_CURSOR_LIMIT = 600
_PLACE = re.compile(r"(?P<page>.*)\|(?P<at>-?\d{1,18})\|(?P<id>[^|]{1,200})", re.DOTALL)


@attrs.frozen
class JobsFound:
    """The jobs of a page that a search has found within its limits."""

    jobs: list[JobRecord]
    cursor: str | None  # the start of the next part; None at the end of the list
    examined: int  # the number of checked jobs
    is_cut: bool  # whether the search reached its limit, so more jobs may exist although the page is not full
    last_at: int | None = None  # the position in the list's order at which the search ended, in micros


def find_page(
    fire: Firelock, plan: SearchPlan, *, limit: int, cursor: str | None, oldest_first: bool = False,
    seconds: float = SECONDS, monotonic: Callable[[], float] = time.monotonic,
) -> JobsFound:  # fmt: skip
    """Return up to `limit` jobs after the cursor that match the plan.

    Raises:
        BadRequest: If the cursor is not from a page of this filter.
    """
    if cursor is not None and len(cursor) > _CURSOR_LIMIT:
        raise _no_cursor()
    try:
        return _page(
            fire, plan, limit, cursor, monotonic() + seconds, oldest_first=oldest_first, monotonic=monotonic
        )
    except StorageUnavailable:
        raise
    except StorageError as error:
        message = "cursor is not from a page of this filter; remove it to start with the newest jobs."
        raise BadRequest(message) from error


def _no_cursor() -> BadRequest:
    return BadRequest("cursor is not from a page; remove it to start with the newest jobs.")


def _page(
    fire: Firelock, plan: SearchPlan, limit: int, cursor: str | None, until: float, *, oldest_first: bool,
    monotonic: Callable[[], float],
) -> JobsFound:  # fmt: skip
    """Return a page; if there are tests, the cursor names a page of the storage and the last checked job."""
    tests = bool(plan.tests)
    at, after = _read_cursor(cursor) if tests else (cursor, None)
    found: list[JobRecord] = []
    examined, last = 0, None

    def is_after(record: JobRecord, place: tuple[int, str]) -> bool:
        here = (plan.time_of(record), record.id)
        return here > place if oldest_first else here < place

    def result(cursor: str | None, *, is_cut: bool) -> JobsFound:
        return JobsFound(found, cursor, examined, is_cut, None if last is None else plan.time_of(last))

    while True:
        began = monotonic()
        # without tests, all found jobs match, so request only the missing number
        page = fire.jobs.page(
            plan.where, limit=_CHUNK if tests else limit - len(found), cursor=at,
            oldest_first=oldest_first,
        )  # fmt: skip
        for handle in page:
            record = handle.record()
            if after is not None and not is_after(record, after):
                continue
            examined, last = examined + 1, record
            is_full = False
            if plan.accepts(record):
                found.append(record)
                is_full = len(found) == limit
            if tests and (is_full or (examined % _CHECK_EVERY == 0 and monotonic() >= until)):
                return result(f"{at or ''}|{plan.time_of(record)}|{record.id}", is_cut=not is_full)
        # the previous part may have ended at the last job of the storage's page
        is_rest_empty = after is not None and examined == 0
        at, after = page.cursor, None
        is_done = at is None or len(found) >= limit
        is_late = examined >= ROWS or (_is_too_late(began, monotonic(), until) and not is_rest_empty)
        if is_done or is_late:
            return result(f"{at}|0|-" if at and tests else at, is_cut=not is_done)


def _is_too_late(began: float, now: float, until: float) -> bool:
    """Return whether another read that takes as long as the last one would exceed the search time.

    Such a read might find nothing, so it is not worth a delay.
    """
    return now + (now - began) > until


def _read_cursor(cursor: str | None) -> tuple[str | None, tuple[int, str] | None]:
    if cursor is None:
        return None, None
    place = _PLACE.fullmatch(cursor)
    if place is None:
        raise _no_cursor()
    return place["page"] or None, None if place["id"] == "-" else (int(place["at"]), place["id"])


def pages_of(fire: Firelock, where: JobFilter, *, oldest_first: bool = False) -> Iterator[JobPage]:
    """Yield the pages of the jobs that match a filter, each of up to 500 jobs, read on demand."""
    cursor, is_over = None, False
    while not is_over:
        page = fire.jobs.page(where, limit=_CHUNK, cursor=cursor, oldest_first=oldest_first)
        yield page
        cursor, is_over = page.cursor, page.cursor is None


def every_match(
    fire: Firelock, plan: SearchPlan, limit: int, *, oldest_first: bool = False
) -> Iterator[JobRecord]:
    """Yield up to `limit` jobs that match the plan, in the list's order; pages are read on demand."""
    pages = pages_of(fire, plan.where, oldest_first=oldest_first)
    return islice(filter(plan.accepts, (job.record() for page in pages for job in page)), limit)


def count_up_to(
    fire: Firelock,
    plan: SearchPlan,
    *,
    seconds: float = SECONDS,
    monotonic: Callable[[], float] = time.monotonic,
) -> tuple[int, bool]:
    """Return the number of jobs that match the plan, and whether all were counted.

    At most `COUNTED` jobs are checked.
    """
    began = monotonic()
    until, counted, examined = began + seconds, 0, 0
    for page in pages_of(fire, plan.where):
        examined += len(page)
        counted += sum(plan.accepts(handle.record()) for handle in page) if plan.tests else len(page)
        if page.cursor is None:
            return counted, True
        now = monotonic()
        if examined >= COUNTED or _is_too_late(began, now, until):
            break
        began = now
    return counted, False
