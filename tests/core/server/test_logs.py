"""The job fields of log records, and the formats of a server's own log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import threading
from contextvars import copy_context
from datetime import date

import pytest

from firelock import ConfigurationError, Firelock, JobFields, Retry, current_job, job_fields
from firelock.server.logs import JobLines, JsonLines


class Kept(logging.Handler):
    """An application's own handler."""

    def __init__(self):
        super().__init__()
        self.records = []
        self.addFilter(JobFields())

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def kept():
    """A handler with the filter, on a logger of the application."""
    handler, logger = Kept(), logging.getLogger("shop")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def app():
    """An app that stores its jobs in memory."""
    with Firelock("memory://") as app:
        yield app


def fields(record):
    return (record.job_id, record.task, record.queue, record.attempt)


def test_record_of_a_job_has_job_fields(app, kept):
    """The fields are set for jobs in a thread and in an event loop.

    They are also set in threads and asyncio tasks that the job starts with a copy of its context.
    """

    @app.task(name="sync", queue="mail")
    def sync() -> None:
        logging.getLogger("shop").warning("in a thread")
        context = copy_context()
        thread = threading.Thread(target=context.run, args=(logging.getLogger("shop").warning, "beside"))
        thread.start()
        thread.join()

    @app.task(name="loop")
    async def loop() -> None:
        await asyncio.to_thread(logging.getLogger("shop").warning, "beside")
        await asyncio.gather(asyncio.create_task(log_inside()))

    async def log_inside() -> None:
        logging.getLogger("shop").warning("in a coroutine")

    with app.server(workers=1):
        first, second = sync.enqueue(), loop.enqueue()
        first.result(timeout=20)
        second.result(timeout=20)

    assert {
        (first.id, "sync", "mail", 1, "in a thread"),
        (first.id, "sync", "mail", 1, "beside"),
        (second.id, "loop", "default", 1, "beside"),
        (second.id, "loop", "default", 1, "in a coroutine"),
    } == {(*fields(record), record.getMessage()) for record in kept.records}


def test_record_outside_of_a_job_has_the_default(kept):
    """With the default, a format can contain the fields. Without a default, the record is not changed."""
    logging.getLogger("shop").warning("here")
    record = logging.makeLogRecord({})

    assert JobFields(default=None).filter(record)

    assert ("-", "-", "-", "-") == fields(kept.records[0])
    assert not hasattr(record, "job_id")
    assert {} == job_fields()


def test_field_set_by_the_caller_is_kept(app, kept):
    """Values passed with `extra=` are kept; the filter only adds missing fields."""

    @app.task(name="work")
    def work() -> None:
        logging.getLogger("shop").warning("of another", extra={"job_id": "other"})

    with app.server(workers=1):
        work.enqueue().result(timeout=20)

    assert "other" == kept.records[0].job_id


def test_record_contains_the_named_metadata(app, kept):
    """The records contain the named metadata, for example a request id.

    If there is no value, or outside of a job, they contain the default.
    """
    kept.addFilter(JobFields(meta=["request_id", "tenant"]))

    @app.task(name="work")
    def work() -> None:
        logging.getLogger("shop").warning("here", extra={"tenant": "own"})

    with app.server(workers=1):
        work.using(meta={"request_id": "r-1", "tenant": "acme"}).enqueue().result(timeout=20)
        work.enqueue().result(timeout=20)
    logging.getLogger("shop").warning("there")

    assert [("r-1", "own"), ("-", "own"), ("-", "-")] == [
        (record.request_id, record.tenant) for record in kept.records
    ]


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ("request_id", "meta must be a list of names, got"),
        (["message", "id"], r"must not contain \['message'\], because"),
        (["task"], "'task'"),
    ],
)
def test_reserved_names_of_metadata_are_refused(meta, words):
    """A name that would replace an attribute of the record raises a configuration error."""
    with pytest.raises(ConfigurationError, match=words):
        JobFields(meta=meta)


def test_job_fields_contain_the_attempt(app):
    """`job_fields()` returns the fields of the running attempt."""
    seen = []

    @app.task(name="work", retry=Retry.fixed(0, attempts=1))
    def work() -> None:
        seen.append((current_job().id, job_fields()))
        if len(seen) == 1:
            raise ValueError("once")

    with app.server(workers=1):
        work.enqueue().result(timeout=20)

    assert [1, 2] == [each["attempt"] for _, each in seen]
    assert all(job_id == each["job_id"] for job_id, each in seen)


def written(formatter, **fields):
    record = logging.makeLogRecord({"name": "shop", "levelname": "INFO", "created": 1.5, **fields})
    return formatter.format(record)


def test_text_line_ends_with_the_job():
    """Nothing is added to a line that already contains the job's id, or to a line outside of a job."""
    job = {"job_id": "j1", "task": "mail", "queue": "default", "attempt": 2}

    within = written(JobLines(), msg="sent", **job)
    naming = written(JobLines(), msg="Job %s failed", args=("j1",), **job)
    outside = written(JobLines(), msg="sent")

    assert within.endswith("INFO shop: sent [job_id=j1 task=mail queue=default attempt=2]")
    assert naming.endswith("INFO shop: Job j1 failed")
    assert outside.endswith("INFO shop: sent")


def test_text_line_contains_requested_metadata():
    """Requested metadata follows the job's fields. It is also added to a line that contains the job's id."""
    job = {"job_id": "j1", "task": "mail", "queue": "default", "attempt": 2, "request_id": "r1"}
    lines = JobLines(["request_id", "tenant"])

    assert written(lines, msg="sent", **job).endswith("attempt=2 request_id=r1]")
    assert written(lines, msg="Job j1 failed", **job).endswith("Job j1 failed [request_id=r1]")
    assert written(lines, msg="sent", tenant="acme").endswith("INFO shop: sent")


def test_json_line_contains_the_fields_of_the_record():
    """The object contains the time in UTC, level, logger, message, and values set by `extra=` and filters."""
    line = written(JsonLines(), msg="sent %d", args=(3,), order=7, day=date(2026, 3, 1), level="mine")

    assert {
        "time": "1970-01-01T00:00:01.500+00:00", "level": "INFO", "logger": "shop", "message": "sent 3",
        "order": 7, "day": "2026-03-01", "extra_level": "mine",
    } == json.loads(line)  # fmt: skip


def test_json_line_contains_the_exception_as_an_object():
    """The exception is on one line even if its traceback has several lines.

    The type is written with its full name.
    """
    try:
        raise ConfigurationError("odd\nvalue")
    except ConfigurationError:
        line = written(JsonLines(), msg="failed", exc_info=sys.exc_info())

    exception = json.loads(line)["exception"]
    assert "\n" not in line
    assert ("firelock.errors.ConfigurationError", "odd\nvalue") == (exception["type"], exception["message"])
    assert exception["traceback"].startswith("Traceback (most recent call last):\n")


class Connection:
    """An object whose repr contains its password."""

    def __repr__(self):
        return "Connection(password='hunter2')"


def test_unknown_value_is_written_as_its_type_only():
    """The repr of an unknown type might contain a secret, so only the type is written.

    A value that JSON cannot represent does not affect the other values.
    """
    loop = []
    loop.append(loop)

    line = written(
        JsonLines(), msg="%d", args=("no number",), a=Connection(), b=[Connection()], c=float("nan"), d=loop,
        e={1: {2}}, f={(1,): 2}, g="\ud800",
    )  # fmt: skip

    record = json.loads(line)
    assert "hunter2" not in line
    assert "%d" == record["message"]
    assert ["<Connection>", ["<Connection>"], "<float>", "<list>", {"1": [2]}, "<dict>", "\ud800"] == [
        record[name] for name in "abcdefg"
    ]


def test_standard_formatter_writes_the_fields(app):
    """A handler of the standard library only needs the filter and a plain format."""
    stream = io.StringIO()
    handler, logger = logging.StreamHandler(stream), logging.getLogger("shop")
    handler.addFilter(JobFields())
    handler.setFormatter(logging.Formatter("%(task)s/%(attempt)s %(message)s"))
    logger.addHandler(handler)

    @app.task(name="work")
    def work() -> None:
        logger.warning("here")

    try:
        with app.server(workers=1):
            work.enqueue().result(timeout=20)
        logger.warning("there")
    finally:
        logger.removeHandler(handler)

    assert "work/1 here\n-/- there\n" == stream.getvalue()
