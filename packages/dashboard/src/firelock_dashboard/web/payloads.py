"""The arguments and results of jobs as a visitor may see them: decoded, redacted and cut."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import attrs

from firelock import JsonValue, Serializer
from firelock.arguments.references import OutputText, with_outputs
from firelock_dashboard.security.redaction import Redactor
from firelock_dashboard.web.formatting import task_name

if TYPE_CHECKING:
    from firelock.storage import Input, JobRecord

IN_LISTS = 4 * 1024  # characters
IN_DETAIL = 64 * 1024


@attrs.frozen
class Payload:
    """A stored value, formatted for display."""

    text: str = ""  # indented JSON, or the stored string if it cannot be read; cut to the limit
    line: str = ""  # the same on one line
    value: JsonValue = None  # decoded and redacted; None if it cannot be read or the visitor may not see it
    reason: str | None = None  # why `value` is None: the visitor may not see it, or it cannot be read
    is_hidden: bool = False  # whether the visitor may not see it; if so, `text` is also empty
    is_cut: bool = False  # whether the value is longer than `text`, so that a download is offered
    size: int = 0  # the number of characters of the whole value


def hidden(reason: str) -> Payload:
    """Return the payload for a visitor who may not see the value."""
    return Payload(reason=reason, is_hidden=True)


class Called(Protocol):
    """A job or the definition of a recurring job, which both have a task and stored arguments."""

    @property
    def task(self) -> str:
        """The name of the task."""
        ...

    @property
    def arguments(self) -> str:
        """The arguments as stored."""
        ...

    @property
    def serializer(self) -> str:
        """The name of the serializer that encoded the arguments."""
        ...


@attrs.frozen
class PayloadReader:
    """A reader of stored job values, which returns only data that the dashboard may show.

    Stored strings are never trusted, because anyone who can write to the storage can store any string.
    """

    serializers: Mapping[str, Serializer]
    redactor: Redactor

    def payload(
        self, record: Called, stored: object, limit: int | None, inputs: Sequence[Input] = ()
    ) -> Payload:
        """Return a stored string as a redacted value, or unparsed with the reason if it is unreadable.

        The outputs of other jobs, `inputs`, are shown by name where they are used.
        """
        text = stored if isinstance(stored, str) else str(stored)
        reader = self.serializers.get(record.serializer)
        if reader is None:
            reason = (
                f"The value was stored by the serializer {record.serializer!r}, which is not installed here."
            )
            return self._raw(text, reason, record.task, limit)
        try:
            value = with_outputs(self.redactor.value(reader.loads(text), record.task), inputs)
            shown = json.dumps(value, ensure_ascii=False, indent=2)
            line = json.dumps(value, ensure_ascii=False)
        except Exception as error:  # noqa: BLE001 - a serializer and data of other code
            return self._raw(text, f"The value cannot be read: {error}", record.task, limit)
        return _cut(Payload(shown, line, value, size=len(shown)), limit)

    def arguments(self, record: JobRecord) -> JsonValue:
        """Return a job's redacted arguments without their text for display; None if they cannot be read."""
        try:
            return self.redactor.value(
                self.serializers[record.serializer].loads(record.arguments), record.task
            )
        except Exception:  # noqa: BLE001 - a serializer and data of other code
            return None

    def _raw(self, text: str, reason: str, task: str, limit: int | None) -> Payload:
        clean, reason = (self.redactor.text(one, task) for one in (text, reason[:500]))
        return _cut(Payload(clean, " ".join(clean.split()), None, reason, size=len(clean)), limit)


def _cut(payload: Payload, limit: int | None) -> Payload:
    if limit is None or (len(payload.text) <= limit and len(payload.line) <= limit):
        return payload
    return attrs.evolve(payload, text=payload.text[:limit], line=payload.line[:limit], is_cut=True)


CUT = 64 * 1024
"""The maximum number of characters of a string that are shown; a download contains all of them."""

_FOLDED = 240  # a value with more characters is folded
_SUMMARY = 240
_WIDE = 88  # a call with more characters has a line for each argument
_NODES = 600
_DEPTH = 40

_PIECES = re.compile(
    r'(?P<text>"(?:[^"\\]|\\.)*"?)|(?P<number>-?\b\d[\d_.eE+-]*)|(?P<word>\b(?:True|False|None)\b)'
    r"|(?P<name>[A-Za-z_]\w*(?==))|(?P<call>[A-Za-z_]\w*(?=\())|(?P<rest>.)",
    re.DOTALL,
)


@attrs.frozen
class Piece:
    """A part of a line of code with the class that colours it; the class is empty for plain text."""

    kind: str
    text: str


@attrs.frozen
class Given:
    """One argument of a call."""

    name: str  # the name before `=`; empty for a positional argument
    parameter: str
    text: str  # the value as Python

    @property
    def is_long(self) -> bool:
        """Whether the value is folded."""
        return len(self.text) > _FOLDED

    @property
    def start(self) -> str:
        """The beginning of a folded value."""
        return self.text[: _FOLDED // 3]

    @property
    def pieces(self) -> list[Piece]:
        """The value in coloured pieces, up to `CUT` characters."""
        return pieces(self.text[:CUT])


@attrs.frozen
class ShownCall:
    """A call of a task, derived from stored arguments."""

    function: str
    given: tuple[Given, ...]
    using: tuple[Given, ...] = ()  # the options in which the job differs from its task

    @property
    def is_wide(self) -> bool:
        """Whether each argument has its own line."""
        return sum(len(one.name) + len(one.text) + 2 for one in self.given) + len(self.function) > _WIDE

    @property
    def text(self) -> str:
        """The call as one string, for copying."""
        using = ", ".join(f"{one.name}={one.text}" for one in self.using)
        head = f"{self.function}.using({using}).enqueue" if using else f"{self.function}.enqueue"
        return f"{head}({', '.join(_written(one) for one in self.given)})"


def call_of(
    task: str, arguments: Mapping[str, JsonValue], using: Mapping[str, JsonValue] | None = None
) -> ShownCall:
    """Return the call for the stored arguments, which are given by the names of the task's parameters.

    The argument `*name` contains additional positional arguments, and `**name` additional keyword arguments.
    """
    further = next((value for name, value in arguments.items() if _stars(name) == 1), None)
    by_position = isinstance(further, list) and bool(further)
    given: list[Given] = []
    for name, value in arguments.items():
        if _stars(name) == 1 and isinstance(value, list):
            given += [Given("", name, literal(one)) for one in value]
        elif _stars(name) == 2 and isinstance(value, dict):  # noqa: PLR2004 - two stars
            given += [Given(inner, inner, literal(one)) for inner, one in value.items()]
        else:
            given.append(Given("" if by_position else name, name, literal(value)))
    options = tuple(Given(name, name, literal(value)) for name, value in (using or {}).items())
    return ShownCall(task_name(task), tuple(given), options)


def _stars(name: str) -> int:
    return len(name) - len(name.lstrip("*"))


def _written(one: Given) -> str:
    return f"{one.name}={one.text}" if one.name else one.text


def summary(arguments: Mapping[str, JsonValue], limit: int = _SUMMARY) -> str:
    """Return the arguments on one line, `order_id=42, locale="tr"`, cut to the limit."""
    parts: list[str] = []
    left = limit
    for one in call_of("", arguments).given:
        part = _written(one)
        parts.append(part[:left] + ("…" if len(part) > left else ""))
        left -= len(part) + 2
        if left <= 0:
            break
    return ", ".join(parts)


# ---- values ----------------------------------------------------------------------------------------------


def literal(value: JsonValue) -> str:
    """Return a JSON value as a Python literal, with unprintable characters as escapes."""
    match value:
        case OutputText():
            return str(value)
        case str():
            return _quoted(value)
        case list():
            return f"[{', '.join(map(literal, value))}]"
        case dict():
            return "{" + ", ".join(f"{_quoted(name)}: {literal(one)}" for name, one in value.items()) + "}"
        case _:
            return str(value)


def _quoted(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(one if one.isprintable() else _escape(one) for one in quoted)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - the two forms of Python


def pieces(code: str) -> list[Piece]:
    """Split a line of code into the pieces that have a colour: strings, numbers, words, names, calls."""
    found: list[Piece] = []
    for kind, run in groupby(_PIECES.finditer(code), key=lambda match: match.lastgroup or "rest"):
        texts = [match[0] for match in run]
        found += [Piece("", "".join(texts))] if kind == "rest" else [Piece(kind, text) for text in texts]
    return found


# ---- trees -----------------------------------------------------------------------------------------------


@attrs.frozen
class Node:
    """A value of a JSON tree: a leaf with its text, or a branch with its children."""

    key: str | None
    kind: str  # text, number, word, object or list
    text: str  # the text of a leaf; for a branch, its opening bracket and the number of its children
    children: tuple[Node, ...] = ()
    left_out: int = 0  # the number of children that are not shown

    @property
    def is_branch(self) -> bool:
        """Whether the value is an object or a list."""
        return bool(self.children) or self.left_out > 0


def tree(value: JsonValue) -> Node:
    """Return a value as a tree of at most 600 nodes."""
    return _Tree().node(None, value, 0)


class _Tree:
    def __init__(self) -> None:
        self._left = _NODES

    def node(self, key: str | None, value: JsonValue, depth: int) -> Node:
        self._left -= 1
        match value:
            case dict():
                pairs: Sequence[tuple[str | None, JsonValue]] = list(value.items())
                return self._branch(key, "object", f"{{{len(value) or ''}}}", pairs, depth)
            case list():
                return self._branch(
                    key, "list", f"[{len(value) or ''}]", [(None, one) for one in value], depth
                )
            case str():
                return Node(key, "text", _quoted(value)[:CUT])
            case None | bool():
                return Node(key, "word", json.dumps(value))
            case _:
                return Node(key, "number", str(value))

    def _branch(
        self, key: str | None, kind: str, text: str, pairs: Sequence[tuple[str | None, JsonValue]], depth: int
    ) -> Node:
        children: list[Node] = []
        for name, one in pairs:
            if self._left <= 0 or depth >= _DEPTH:
                break
            children.append(self.node(name, one, depth + 1))
        return Node(key, kind, text, tuple(children), len(pairs) - len(children))
