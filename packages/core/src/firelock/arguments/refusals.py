"""Values that cannot be arguments of a job, with advice on alternatives."""

from __future__ import annotations

import functools
import io
import types
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Final
from uuid import UUID

import attrs

from firelock.arguments.codec import is_record


@attrs.frozen
class Refusal:
    """A kind of value that cannot be an argument under any annotation, with words for its rejection."""

    noun: str
    """The kind, for messages: `the entity User`, `an open file`."""

    advice: str
    """The alternative to pass instead, as an instruction."""

    keys: tuple[str, ...] = ()
    """The attributes that identify an entity; empty for other kinds."""


def refusal(value: object) -> Refusal | None:
    """Return the refusal of a value that cannot be an argument under any annotation; otherwise None."""
    kind = type(value)
    found: Refusal | None = _refusal_of(kind)  # type: ignore[arg-type]  # mypy: unhashable
    if found is None and "_sa_instance_state" in _own_attributes(value):
        return _entity(kind)
    return found


def find_refused(value: object, *, limit: int = 1000) -> tuple[list[str | int], object] | None:
    """Return the first nested value that is rejected under any annotation, with its path.

    The search ends after `limit` values.
    """
    pending: list[tuple[list[str | int], object]] = [([], value)]
    seen = 0
    while pending and seen < limit:
        path, current = pending.pop(0)
        seen += 1
        if refusal(current) is not None:
            return path, current
        if len(path) < 8:  # noqa: PLR2004 - deeper values have a less exact message, but are also rejected
            pending.extend(([*path, key], inner) for key, inner in _parts(current)[:limit])
    return None


def _parts(value: object) -> list[tuple[str | int, object]]:
    if isinstance(value, dict):
        return [(str(key) if type(key) is str else type(key).__name__, inner) for key, inner in value.items()]
    if isinstance(value, Iterable) and type(value) in (list, tuple, set, frozenset):
        return list(enumerate(value))
    return list(_own_attributes(value).items()) if is_record(type(value)) else []


def advice_for(value: object) -> str:
    """Return the advice for a value that is not plain JSON, or that exceeds the limits of stored JSON."""
    refused, kind = refusal(value), type(value)
    if refused is not None:
        return refused.advice
    if kind in _ADVICE:
        return _ADVICE[kind]
    is_annotated = _is_named_record(kind) or issubclass(kind, (Enum, date, time, timedelta, UUID, Decimal))
    for base in (*_ADVICE, bool):
        if issubclass(kind, base) and not is_annotated:
            return f"pass {base.__name__}(value): it would be restored as {base.__name__}"
    if is_annotated:
        return f"annotate the parameter with {kind.__name__}"
    return "pass plain values (strings, numbers, lists, dicts), or annotate the parameter with a dataclass"


_BYTES: Final = "pass bytes(value) and annotate the parameter as bytes"

_ADVICE: Final[Mapping[type, str]] = {
    float: "JSON has no NaN and no infinity: pass None or a string",
    int: "pass it as a string",
    str: "pass a string of printable Unicode, or annotate the parameter as bytes",
    list: "store it elsewhere and pass a reference",
    dict: "use strings as keys and fewer levels, or store it elsewhere and pass a reference",
    tuple: "annotate the parameter as tuple[...], or pass a list",
    set: "annotate the parameter as set[...], or pass a list",
    frozenset: "annotate the parameter as frozenset[...], or pass a list",
    bytes: "annotate the parameter as bytes",
    bytearray: _BYTES,
    memoryview: _BYTES,
}


def _is_named_record(kind: type) -> bool:
    is_named_tuple = issubclass(kind, tuple) and hasattr(kind, "_fields")
    return is_named_tuple or is_record(kind) or hasattr(kind, "model_validate")


# ---- kinds -----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _refusal_of(kind: type) -> Refusal | None:
    bases = kind.__mro__
    names = [(str(base.__module__).partition(".")[0], base.__name__) for base in bases]
    declared = {name for base in bases for name in ("_sa_class_manager", "_meta", "pk") if name in vars(base)}
    if "_sa_class_manager" in declared or {"_meta", "pk"} <= declared or not _ENTITY_BASES.isdisjoint(names):
        return _entity(kind)
    for name in names:
        if found := _BY_NAME.get(name):
            return found
    for base, noun, advice in _BY_TYPE:
        if issubclass(kind, base):
            return Refusal(noun, advice)
    return None


def _entity(kind: type) -> Refusal:
    return Refusal(f"the entity {kind.__name__}", _ENTITY, _identity(kind))


def _identity(kind: type) -> tuple[str, ...]:
    """Return the attributes that identify an entity.

    The result is `id` if the entity has this attribute, otherwise the primary key of its mapper.
    """
    if any("id" in vars(base) for base in kind.__mro__):
        return ("id",)
    mapper = vars(kind).get("__mapper__")
    columns = [getattr(column, "key", None) for column in getattr(mapper, "primary_key", ())]
    if columns and all(isinstance(key, str) for key in columns):
        return tuple(map(str, columns))
    has_pk = any("pk" in vars(base) for base in kind.__mro__)
    return ("pk",) if has_pk else ("id",)


def _own_attributes(value: object) -> dict[str, object]:
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}


_SESSION: Final = "open it inside the task"
_QUERY: Final = "pass the ids or filter values, and run the query inside the task"
_REQUEST: Final = "pass only the values that the task needs"
_PROXY: Final = (
    "it has a different value in each request and none in a job: pass only the values that the "
    "task needs, such as request.args['id'], or for g and session the value itself"
)
_THREAD: Final = "create it inside the task; fire.lock(...) is a lock across processes"
_AWAIT: Final = "did you forget await? Pass the awaited value"
_ARRAY: Final = "pass .tolist(), or store it elsewhere and pass a reference"
_FRAME: Final = "store it elsewhere and pass a reference"
_ENTITY: Final = "pass its id and load it inside the task"
_HELD: Final = "pass its contents"

# Classes are found by their top-level package and class name. Therefore the libraries do not have to be
# imported, and they can move a class to another module.
_BY_NAME: Final[Mapping[tuple[str, ...], Refusal]] = {
    tuple(place.split(".")): Refusal(noun, advice)
    for noun, advice, places in (
        (
            "a database session",
            _SESSION,
            "sqlalchemy.Session sqlalchemy.AsyncSession sqlalchemy.scoped_session",
        ),
        (
            "a database connection",
            _SESSION,
            """
            sqlalchemy.Connection sqlalchemy.AsyncConnection django.BaseDatabaseWrapper
            peewee.Database sqlite3.Connection sqlite3.Cursor psycopg.BaseConnection
            psycopg2.connection pymysql.Connection asyncpg.Connection asyncpg.Pool
            aiosqlite.Connection
            """,
        ),
        ("a database engine", _SESSION, "sqlalchemy.Engine sqlalchemy.AsyncEngine"),
        (
            "a query",
            _QUERY,
            """
            sqlalchemy.Query sqlalchemy.Executable sqlalchemy.Result django.QuerySet
            django.BaseManager peewee.BaseQuery tortoise.AwaitableQuery mongoengine.BaseQuerySet
            """,
        ),
        (
            "a request",
            _REQUEST,
            "django.HttpRequest aiohttp.BaseRequest starlette.HTTPConnection werkzeug.Request",
        ),
        ("a lazy object of Django, such as request.user,", _ENTITY, "django.LazyObject"),
        ("a lazy string of Django", "pass str(text)", "django.Promise"),
        ("a connection", _SESSION, "redis.Redis pymongo.MongoClient multiprocessing._ConnectionBase"),
        ("an HTTP session", _SESSION, "requests.Session aiohttp.ClientSession"),
        ("an HTTP client", _SESSION, "httpx.BaseClient"),
        (
            "a framework's proxy, as Flask's request, session, g and current_app are,",
            _PROXY,
            "werkzeug.LocalProxy",
        ),
        ("a socket", _SESSION, "socket.socket _socket.socket"),
        (
            "a lock",
            _THREAD,
            """
            _thread.lock _thread.RLock _thread.LockType threading._RLock threading.Condition
            threading.Semaphore threading.Event threading.Barrier multiprocessing.SemLock
            asyncio.Lock asyncio.Event asyncio.Condition asyncio.Semaphore
            """,
        ),
        ("a thread", _THREAD, "threading.Thread"),
        ("a process", _THREAD, "multiprocessing.BaseProcess"),
        ("a process", "start it inside the task", "subprocess.Popen"),
        ("a queue", _HELD, "asyncio.Queue queue.Queue queue.SimpleQueue _queue.SimpleQueue"),
        ("a future", _AWAIT, "_asyncio.Future _asyncio.Task"),
        ("a future", "pass its result()", "concurrent.Future"),
        ("an executor", _THREAD, "concurrent.Executor"),
        (
            "an open file",
            "pass its path or its content",
            "tempfile._TemporaryFileWrapper tempfile.SpooledTemporaryFile",
        ),
        ("a logger", "get it inside the task", "logging.Logger logging.LoggerAdapter"),
        ("a path", "pass str(path); a server can have another file system", "pathlib.PurePath"),
        ("a numpy scalar", "pass .item()", "numpy.generic"),
        ("a numpy array", _ARRAY, "numpy.ndarray"),
        ("a pandas frame", _FRAME, "pandas.DataFrame pandas.Series pandas.Index"),
        ("a pandas timestamp", "pass .to_pydatetime()", "pandas.Timestamp"),
        ("a polars frame", _FRAME, "polars.DataFrame polars.LazyFrame polars.Series"),
    )
    for place in places.split()
}

_ENTITY_BASES: Final = {
    ("django", "Model"),
    ("peewee", "Model"),
    ("tortoise", "Model"),
    ("mongoengine", "BaseDocument"),
    ("pony", "Entity"),
}

_BY_TYPE: Final[tuple[tuple[type | tuple[type, ...], str, str], ...]] = (
    (io.IOBase, "an open file", "pass its path or its content"),
    (types.CoroutineType, "a coroutine", _AWAIT),
    (
        (types.GeneratorType, types.AsyncGeneratorType),
        "a generator",
        "pass a list, or the data that it is made from",
    ),
    (types.ModuleType, "a module", "import it inside the task"),
    (
        (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial),
        "a function",
        "pass the data it would use, or a string by which the task chooses",
    ),
    (type, "a class", "pass a string by which the task chooses"),
    (BaseException, "an exception", "pass str(error)"),
    ((types.TracebackType, types.FrameType, types.CodeType), "an interpreter's object", "pass a string"),
    ((range, Iterator), "an iterator", "pass a list of its items"),
)
