"""Values that must not be arguments, such as entities and connections, are refused by name."""

from __future__ import annotations

import asyncio
import io
import queue
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import flask
import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Query, Session, mapped_column

from firelock.arguments.serializer import JsonSerializer
from firelock.arguments.signature import compile_binder
from firelock.errors import ArgumentError


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Membership(Base):
    __tablename__ = "membership"
    group: Mapped[int] = mapped_column(primary_key=True)
    member: Mapped[int] = mapped_column(primary_key=True)


class Account(MappedAsDataclass, Base):
    """An entity that looks like a plain dataclass."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)


def send_mail(user: Any) -> None: ...


def welcome(user: User) -> None: ...


def open_account(account: Account) -> None: ...


def charge(order: int, user: Any, *, note: str = "") -> None: ...


def invite(users: list[User]) -> None: ...


def binder_of(function):
    return compile_binder(function, task=f"tests.{function.__name__}")


def refusal_of(function, *args, **kwargs):
    with pytest.raises(ArgumentError) as caught:
        binder_of(function).encode_text(args, kwargs, JsonSerializer())
    return str(caught.value)


@pytest.mark.parametrize(
    ("function", "entity", "name"),
    [
        (send_mail, User(id=1, name="Ann"), "user"),
        (welcome, User(id=1, name="Ann"), "user"),
        (open_account, Account(id=1), "account"),
    ],
)
def test_error_about_an_entity_shows_the_call_with_its_id(function, entity, name):
    """Entities are refused whatever the parameter's annotation is, even if they are mapped dataclasses."""
    task, kind = function.__name__, type(entity).__name__

    assert (
        f"{task}.enqueue({name}): argument '{name}' (position 1) is the entity {kind}; pass "
        f"{kind.lower()}.id and load the {kind} in the task"
    ) == refusal_of(function, entity)


def test_shown_call_contains_the_other_arguments():
    """With the other arguments, the line in the source code is easy to find."""
    message = refusal_of(charge, 1, User(id=1), note="x")

    assert message.startswith(
        "charge.enqueue(order, user, note=note): argument 'user' (position 2) is the entity"
    )


def test_error_about_an_entity_shows_its_whole_composite_key():
    """The message names every column of the primary key."""
    message = refusal_of(send_mail, Membership(group=1, member=2))

    assert message.endswith("pass membership.group and membership.member and load the Membership in the task")


@pytest.mark.parametrize(
    ("function", "value", "place"),
    [
        (invite, [User(id=1)], "$.users[0]"),
        (send_mail, {"who": (User(id=1),)}, "$.user.who[0]"),
    ],
)
def test_entity_inside_an_argument_is_refused(function, value, place):
    """The message contains the path to the entity."""
    message = refusal_of(function, value)

    assert "passes the entity User (User) in argument 'user" in message
    assert f"(position 1), at {place}; pass its id and load it inside the task" in message


def made_by(module, name, **attributes):
    """Create an instance of a class of a library that does not have to be installed."""
    return type(
        "Sub", (type(name, (), {"__module__": module, **attributes}),), {"__module__": "app.models"}
    )()


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (made_by("django.db.models.base", "Model", pk=1, _meta=object()), "pk"),
        (made_by("django.db.models.base", "Model", pk=1, id=1, _meta=object()), "id"),
        (made_by("peewee", "Model", id=1), "id"),
        (made_by("tortoise.models", "Model", pk=1), "pk"),
        (made_by("mongoengine.base.document", "BaseDocument", pk=1), "pk"),
    ],
)
def test_entities_of_other_libraries_are_refused(value, key):
    """Firelock recognizes the library without importing it."""
    message = refusal_of(send_mail, value)

    assert "argument 'user' (position 1) is the entity Sub" in message
    assert message.endswith(f"pass sub.{key} and load the Sub in the task")


def numbers() -> Iterator[int]:
    yield 1


async def async_numbers() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (threading.Lock, "passes a lock (lock) in argument 'user' (position 1); create it inside the task"),
        (threading.Event, "passes a lock (Event)"),
        (lambda: threading.Thread(target=print), "passes a thread (Thread)"),
        (asyncio.Lock, "passes a lock (Lock)"),
        (queue.SimpleQueue, "passes a queue (SimpleQueue)"),
        (numbers, "passes a generator (generator) in argument 'user' (position 1); pass a list"),
        (lambda: map(str, [1]), "passes an iterator (map)"),
        (lambda: range(3), "passes an iterator (range) in argument 'user' (position 1); pass a list"),
        (lambda: sys, "passes a module (module)"),
        (lambda: len, "passes a function (builtin_function_or_method)"),
        (lambda: User, "passes a class"),
        (lambda: ValueError("x"), "passes an exception (ValueError) in argument 'user' (position 1); pass"),
        (lambda: io.BytesIO(b"x"), "passes an open file (BytesIO)"),
        (lambda: Path("/tmp"), "passes a path (PosixPath) in argument 'user' (position 1); pass str(path)"),
        (lambda: create_engine("sqlite://"), "passes a database engine (Engine)"),
        (Session, "passes a database session (Session)"),
        (lambda: Query(User), "passes a query (Query) in argument 'user' (position 1); pass the ids"),
        (lambda: select(User), "passes a query (Select)"),
        (lambda: made_by("django.db.models.query", "QuerySet"), "passes a query (Sub)"),
        (lambda: made_by("django.http.request", "HttpRequest"), "passes a request (Sub)"),
        (lambda: made_by("starlette.requests", "HTTPConnection"), "passes a request (Sub)"),
        (lambda: made_by("django.utils.functional", "LazyObject"), "such as request.user, (Sub) in argument"),
        (lambda: made_by("django.utils.functional", "Promise"), "passes a lazy string of Django (Sub)"),
        (lambda: made_by("requests.sessions", "Session"), "passes an HTTP session (Sub)"),
        (lambda: made_by("redis.client", "Redis"), "passes a connection (Sub)"),
        (lambda: made_by("numpy", "generic"), "passes a numpy scalar (Sub)"),
        (lambda: made_by("numpy", "ndarray"), "passes a numpy array (Sub)"),
        (lambda: made_by("pandas.core.frame", "DataFrame"), "passes a pandas frame (Sub)"),
    ],
)  # fmt: skip
def test_error_about_an_unsupported_value_contains_an_alternative(make, words):
    assert words in refusal_of(send_mail, make())


@pytest.mark.parametrize("is_bound", [False, True])
@pytest.mark.parametrize("name", ["request", "session", "g", "current_app"])
def test_flask_proxy_is_refused_as_a_proxy(name, is_bound):
    """The proxy is not reported as an iterator, although it has the methods of an iterator.

    The message is the same inside and outside of a request.
    """
    app = flask.Flask("shop")
    app.secret_key = "only for this test"

    with app.test_request_context("/?id=7") if is_bound else nullcontext():
        message = refusal_of(send_mail, getattr(flask, name))

    assert (
        "passes a framework's proxy, as Flask's request, session, g and current_app are, (LocalProxy) in "
        "argument 'user' (position 1); it has a different value in each request and none in a job: "
        "pass only the values that the task needs, such as request.args['id']" in message
    )


def test_open_resources_are_refused():
    """Files, sockets, connections, cursors and processes belong to the process that opened them."""
    with (
        tempfile.NamedTemporaryFile() as temporary,
        Path(temporary.name).open() as plain,
        socket.socket() as connection,
        create_engine("sqlite://").connect() as database,
        subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.DEVNULL) as process,
    ):
        process.wait()
        raw = sqlite3.connect(":memory:")

        assert "passes an open file (_TemporaryFileWrapper)" in refusal_of(send_mail, temporary)
        assert "passes an open file (TextIOWrapper)" in refusal_of(send_mail, plain)
        assert "passes a socket (socket)" in refusal_of(send_mail, connection)
        assert "passes a database connection (Connection)" in refusal_of(send_mail, database)
        assert "passes a database connection (Connection)" in refusal_of(send_mail, raw)
        assert "passes a database connection (Cursor)" in refusal_of(send_mail, raw.cursor())
        assert "passes a process (Popen)" in refusal_of(send_mail, process)
        raw.close()
    database.engine.dispose()


def test_error_about_an_awaitable_suggests_await():
    """A coroutine or a future was probably passed instead of its result."""

    async def load() -> User: ...

    loop, coroutine = asyncio.new_event_loop(), load()
    messages = [refusal_of(send_mail, coroutine), refusal_of(send_mail, loop.create_future())]
    coroutine.close()
    loop.close()

    for message, kind in zip(messages, ("coroutine (coroutine)", "future (Future)"), strict=True):
        assert f"passes a {kind} in argument 'user' (position 1); did you forget await?" in message


def test_refused_value_in_args_or_kwargs_is_named():

    def run(*rest: Any, **more: Any) -> None: ...

    assert "in argument 'rest' (further arguments), at $.*rest[1]" in refusal_of(run, 1, User(id=1))
    assert "in argument 'more' (further arguments), at $.**more.who" in refusal_of(run, who=User(id=1))
