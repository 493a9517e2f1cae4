"""What was typed into the box of a list, as chips: `failed task:send args.user_id:7 created:>2h`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import attrs

from firelock.storage import State
from firelock_dashboard.words import task_name

__all__ = ["Known", "read_typed"]

_TYPED = re.compile(r'(?:(?P<name>[a-z]+(?:\.[\w.*-]+)?):)?(?:"(?P<quoted>[^"]*)"?|(?P<plain>\S+))')
_LIKE_ID = re.compile(r"(?=[0-9a-f-]*\d)[0-9a-f][0-9a-f-]{5,63}")
_RETRYING = "retrying"


@attrs.frozen
class Known:
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


def read_typed(text: str, known: Known, former: Mapping[str, object] | None = None) -> list[tuple[str, str]]:
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


def _guess(word: str, known: Known) -> tuple[str, str] | None:
    if known.named(word):
        return "task", word
    if word in {*State, _RETRYING}:
        return "state", word
    return ("id", word) if _LIKE_ID.fullmatch(word) else None
