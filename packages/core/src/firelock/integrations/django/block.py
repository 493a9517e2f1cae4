"""The block `FIRELOCK` of a project's settings: its keys, and the mistakes in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import attrs

from firelock.errors import ConfigurationError
from firelock.settings import Settings

_SETTINGS = frozenset(field.name for field in attrs.fields(Settings))
_OF_AN_APP = ("storage", "serializer", "locks", "plugins")  # names of an app's arguments
TEST_DATABASE = "database"  # value of `test_storage`: the test database of the alias that stores the jobs
_EXAMPLE = 'FIRELOCK = {"database": "default"}'


@attrs.frozen
class BlockMistake:
    """A mistake in the block, which is reported by a system check or as part of an error."""

    code: str
    sentence: str
    hint: str

    def __str__(self) -> str:
        """Return the sentence and the hint as one string."""
        return f"{self.sentence} {self.hint}".rstrip()


@attrs.frozen(kw_only=True)
class Block:
    """The project's settings for its jobs. Settings that are not set are None or empty."""

    storage: str | None = None  # a storage's URL
    database: str | None = None  # an alias in DATABASES: jobs are stored there and join its transactions
    app: str | None = None  # the name of an app that the project creates itself, such as "shop.jobs:fire"
    plugins: tuple[object, ...] = ()  # plugin objects, or their dotted paths
    serializer: str = "json"
    locks: str | None = None
    queues: str | None = None  # the queues of `manage.py firelock server`, as for `--queues`
    autodiscover: tuple[str, ...] = ("tasks", "jobs")  # names of modules to import from installed apps
    test_storage: str = "memory://"  # the storage for jobs in Django's tests: a URL, or TEST_DATABASE
    settings: Mapping[str, object] = attrs.Factory(dict)  # values for fields of Settings


def read_block(given: object, *, has_storage: bool = False) -> tuple[Block, list[BlockMistake]]:
    """Return the block, and all mistakes in it; invalid values are left out of the block.

    Args:
        given: the setting's value; None if it is not set.
        has_storage: whether `FIRELOCK_STORAGE` specifies a storage.
    """
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        return Block(), [
            BlockMistake(
                "E001", f"FIRELOCK must be a mapping, got {type(given).__name__}.", f"Use {_EXAMPLE}."
            )
        ]
    mistakes: list[BlockMistake] = []
    values: dict[str, Any] = {}
    settings: dict[str, object] = {}
    for key, value in given.items():
        if key in _SETTINGS:
            settings[key] = value
        elif (read := _READERS.get(key)) is None:
            mistakes.append(_unknown(key))
        elif (mistake := _wrong(key, value)) is not None:
            mistakes.append(mistake)
        elif value is not None:
            values[key] = read[1](value)
    block = Block(**values, settings=settings)
    if block.test_storage == block.storage and not block.storage.startswith("memory:"):
        mistakes.append(
            BlockMistake(
                "E011",
                "FIRELOCK['test_storage'] must not be the same as FIRELOCK['storage'], because tests delete "
                "all its jobs.",
                'Use a separate storage for tests, or {"test_storage": "database"} for the test database.',
            )
        )
    return block, [*mistakes, *_contradictions(block, given, has_storage=has_storage)]


def _tuple(value: Sequence[object]) -> tuple[object, ...]:
    return tuple(value)


def _queues(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else ",".join(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_text, value))


# For each key except `settings`: a description of valid values, the conversion for the block, and the check.
_TEXT = ("a string", str, _is_text)
_READERS: Mapping[str, tuple[str, Any, Any]] = {
    "storage": _TEXT,
    "database": _TEXT,
    "app": _TEXT,
    "serializer": _TEXT,
    "locks": _TEXT,
    "test_storage": _TEXT,
    "plugins": ("a list", _tuple, _is_list),
    "queues": (
        "a string or a list of names",
        _queues,
        lambda value: _is_text(value) or _is_list_of_texts(value),
    ),
    "autodiscover": ("a list of module names", _tuple, _is_list_of_texts),
}


def _wrong(key: str, value: object) -> BlockMistake | None:
    wanted, _, is_valid = _READERS[key]
    if value is None or is_valid(value):
        return None
    return BlockMistake(
        "E003", f"FIRELOCK[{key!r}] must be {wanted}, got {value!r}.", "Change the value or remove the key."
    )


def _unknown(key: object) -> BlockMistake:
    known = (*_READERS, *sorted(_SETTINGS))
    near = get_close_matches(str(key), known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Use one of {', '.join(known)}."
    return BlockMistake("E002", f"FIRELOCK has an unknown key {key!r}.", hint)


def _contradictions(block: Block, given: Mapping[object, object], *, has_storage: bool) -> list[BlockMistake]:
    if block.app is not None:
        return _app_conflicts(block.app, given)
    found = []
    if not (block.storage or block.database or has_storage or given.get("storage") or given.get("database")):
        found.append(
            BlockMistake(
                "E004",
                "FIRELOCK does not specify a storage.",
                f'Use {_EXAMPLE} for tables in your database, or a URL: {{"storage": "redis://…"}}.',
            )
        )
    try:
        Settings(**block.settings)  # type: ignore[arg-type]  # Settings checks the types
    except ConfigurationError as error:
        found.append(BlockMistake("E005", str(error), "Change the value in FIRELOCK or remove the key."))
    return found


def _app_conflicts(app: str, given: Mapping[object, object]) -> list[BlockMistake]:
    if ":" not in app and "." not in app:
        return [
            BlockMistake(
                "E003",
                f"FIRELOCK['app'] must have the form module:name, got {app!r}.",
                'Use for example "shop.jobs:fire".',
            )
        ]
    own = [key for key in given if key in {*_OF_AN_APP, *_SETTINGS}]
    if not own:
        return []
    place = "Firelock(settings=Settings(…))" if own[0] in _SETTINGS else "Firelock(…)"
    return [
        BlockMistake(
            "E006",
            f"FIRELOCK contains {own[0]!r}, which the app {app!r} must set itself.",
            f"Remove {own[0]!r} from FIRELOCK, and pass it to {place} where the app is created.",
        )
    ]
