"""What log records say of the job in which they were written, and the two formats of a server's own log.

A filter, because it stands on the handlers that somebody chose and is asked in the thread that logs. A record
factory would change every record of the process; a filter on a logger is not asked for records of the loggers
below it.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import Collection
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import PurePath
from typing import Final
from uuid import UUID

from firelock.context import running_job
from firelock.errors import ConfigurationError
from firelock.model.text import message_of

_NAMES = ("job_id", "task", "queue", "attempt")
_STANDARD: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


class LogFormat(StrEnum):
    """How a server writes its log."""

    TEXT = "text"
    JSON = "json"


def job_fields() -> dict[str, str | int]:
    """Return `job_id`, `task`, `queue` and `attempt` of the job that runs here; empty where none does.

    Here is this thread, this asyncio task, or whatever runs in a copy of their context.
    """
    job = running_job.get(None)
    if job is None:
        return {}
    return {"job_id": job.id, "task": job.task, "queue": job.queue, "attempt": job.attempt}


class JobFields(logging.Filter):
    """A filter for handlers: each record says in which job it was written, and all of them pass.

    Records get the attributes `job_id`, `task`, `queue` and `attempt`, and of the job's meta what is named
    here; one that `extra=` has set stays.

    Args:
        default: what they are outside of a job, for a format such as "%(job_id)s %(message)s"; None leaves
            them off there, for formatters that write every attribute that they find.
        meta: names of what travels with jobs, such as "request_id"; the default where a job has none.

    Raises:
        ConfigurationError: a record has an attribute of that name already, or `meta` is a text.
    """

    def __init__(self, default: str | None = "-", *, meta: Collection[str] = ()) -> None:
        super().__init__()
        if isinstance(meta, str):
            raise ConfigurationError(f"meta={meta!r} is a text; pass a list of names: meta=[{meta!r}].")
        if taken := sorted({*meta} & {*_STANDARD, *_NAMES}):
            raise ConfigurationError(f"meta={taken!r} is refused: every log record has that of its own.")
        self._default = default
        self._meta = tuple(meta)

    def filter(self, record: logging.LogRecord) -> bool:
        """The record has its job's fields; it passes."""
        own, job = vars(record), running_job.get(None)
        if job is not None:
            own.setdefault("job_id", job.id)
            own.setdefault("task", job.task)
            own.setdefault("queue", job.queue)
            own.setdefault("attempt", job.attempt)
            if self._meta:
                carried = job.meta
                own.update(
                    {name: carried[name] for name in self._meta if name in carried and name not in own}
                )
        if self._default is not None:
            for name in (*_NAMES, *self._meta) if job is None else self._meta:
                own.setdefault(name, self._default)
        return True


def log_to_stderr(level: int, style: LogFormat = LogFormat.TEXT, meta: Collection[str] = ()) -> None:
    """What is logged from this level on goes to stderr, alike in all processes of a server.

    Records written in a job say of its meta what is named here.

    For processes that are Firelock's own; one that already has handlers keeps them. The app is imported
    later, so its own `logging.config` wins.
    """
    handler = logging.StreamHandler()
    handler.addFilter(JobFields(default=None, meta=meta))
    handler.setFormatter(JsonLines() if style is LogFormat.JSON else JobLines(meta))
    logging.basicConfig(level=level, handlers=[handler])
    if style is LogFormat.JSON:
        _log_what_python_prints()


def has_server_log() -> bool:
    """Tell whether what reaches the root logger is written by `log_to_stderr`."""
    return any(isinstance(each.formatter, JobLines | JsonLines) for each in logging.getLogger().handlers)


def say_last(text: str, style: LogFormat) -> None:
    """Why this process ends is on stderr, in the form of its log."""
    if style is LogFormat.JSON:
        logging.getLogger("firelock").critical("%s", text)
    else:
        sys.stderr.write(f"firelock: {text}\n")


def _log_what_python_prints() -> None:
    """Warnings and uncaught exceptions are records as well: what reads lines of JSON cannot read others."""
    log = logging.getLogger("python")

    def of_thread(uncaught: threading.ExceptHookArgs) -> None:
        if uncaught.exc_value is not None and uncaught.exc_type is not SystemExit:
            name = "?" if uncaught.thread is None else uncaught.thread.name
            log.error("The thread %s ended by an exception.", name, exc_info=uncaught.exc_value)

    logging.captureWarnings(capture=True)
    threading.excepthook = of_thread
    sys.excepthook = lambda _kind, error, _traceback: log.critical(
        "The process ended by an exception.", exc_info=error
    )


class JobLines(logging.Formatter):
    """A line a record, for people; those written in a job end with its id, task, queue, attempt and meta."""

    def __init__(self, meta: Collection[str] = ()) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._meta = tuple(meta)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line; one that names the job by itself gets its meta alone."""
        line = super().formatMessage(record)
        job_id: object = getattr(record, "job_id", None)
        if job_id is None:
            return line
        names = self._meta if str(job_id) in record.message else (*_NAMES, *self._meta)
        told = [f"{name}={value}" for name in names if (value := getattr(record, name, None)) is not None]
        return f"{line} [{' '.join(told)}]" if told else line


_RESERVED: Final = frozenset({"time", "level", "logger", "exception", "stack"})
_WRITTEN: Final = (date, Decimal, PurePath, UUID)  # a datetime is a date


class JsonLines(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, then what `extra=` and filters have set.

    An exception is an object too: `type`, `message` and `traceback`. Of a value that is no plain data only
    the type is written: what an object says of itself may be a secret.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line in ASCII."""
        words: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD:
                words[f"extra_{name}" if name in _RESERVED else name] = value
        if record.exc_info and record.exc_info[1] is not None:
            words["exception"] = _exception(record.exc_info[1])
        if record.stack_info:
            words["stack"] = record.stack_info
        return f"{{{', '.join(f'{json.dumps(name)}: {_encoded(words[name])}' for name in words)}}}"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - its values do not fit its text; the line is written all the same
        return str(record.msg)


def _exception(error: BaseException) -> dict[str, str]:
    kind = type(error)
    name = kind.__qualname__
    return {
        "type": name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}",
        "message": message_of(error),
        "traceback": "".join(traceback.format_exception(error)),
    }


def _encoded(value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False, default=_written)
    except (TypeError, ValueError, RecursionError):  # odd keys, no number, a list within itself
        return json.dumps(f"<{type(value).__name__}>")


def _written(value: object) -> object:
    if isinstance(value, set | frozenset):
        return list(value)
    return str(value) if isinstance(value, _WRITTEN) else f"<{type(value).__name__}>"
