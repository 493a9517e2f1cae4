"""The job fields of log records, and the two formats of a server's own log.

The fields are set by a filter for handlers. The filter is attached to the handlers that the application has
chosen, and runs in the thread that logs. By contrast, a record factory would change every record of the
process, and a filter on a logger does not receive the records of the loggers below it.
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
    """The format of a server's log."""

    TEXT = "text"
    JSON = "json"


def job_fields() -> dict[str, str | int]:
    """Return `job_id`, `task`, `queue` and `attempt` of the job that runs here; empty if no job runs.

    "Here" means this thread, this asyncio task, or code that runs in a copy of their context.
    """
    job = running_job.get(None)
    if job is None:
        return {}
    return {"job_id": job.id, "task": job.task, "queue": job.queue, "attempt": job.attempt}


class JobFields(logging.Filter):
    """A filter for handlers that adds the fields of the running job to each record. All records pass.

    Records get the attributes `job_id`, `task`, `queue` and `attempt`, and the named values of the job's
    meta. Attributes that were set with `extra=` are not changed.

    Args:
        default: the value outside of a job, for a format such as "%(job_id)s %(message)s". If it is None,
            the attributes are not set outside of jobs, for formatters that write every attribute.
        meta: names of meta values, such as "request_id"; a job without such a value gets the default.

    Raises:
        ConfigurationError: If every record already has an attribute with one of these names, or `meta` is a
            string.
    """

    def __init__(self, default: str | None = "-", *, meta: Collection[str] = ()) -> None:
        super().__init__()
        if isinstance(meta, str):
            raise ConfigurationError(f"meta must be a list of names, got {meta!r}. Pass meta=[{meta!r}].")
        if taken := sorted({*meta} & {*_STANDARD, *_NAMES}):
            raise ConfigurationError(
                f"meta must not contain {taken!r}, because every log record already has this attribute."
            )
        self._default = default
        self._meta = tuple(meta)

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields of the running job to the record and return True."""
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
    """Log records of this level and above to stderr, in the same way in all processes of a server.

    Records that a job writes contain the named values of the job's meta.

    Use this only in processes of Firelock itself. If the process already has handlers, they are kept. The app
    is imported later, so its own `logging.config` takes precedence.
    """
    handler = logging.StreamHandler()
    handler.addFilter(JobFields(default=None, meta=meta))
    handler.setFormatter(JsonLines() if style is LogFormat.JSON else JobLines(meta))
    logging.basicConfig(level=level, handlers=[handler])
    if style is LogFormat.JSON:
        _log_python_output()


def has_server_log() -> bool:
    """Return whether `log_to_stderr` writes the records that reach the root logger."""
    return any(isinstance(each.formatter, JobLines | JsonLines) for each in logging.getLogger().handlers)


def report_exit(text: str, style: LogFormat) -> None:
    """Write to stderr why this process ends, in the format of its log."""
    if style is LogFormat.JSON:
        logging.getLogger("firelock").critical("%s", text)
    else:
        sys.stderr.write(f"firelock: {text}\n")


def _log_python_output() -> None:
    """Log warnings and uncaught exceptions, so that a reader of JSON lines finds no other lines."""
    log = logging.getLogger("python")

    def of_thread(uncaught: threading.ExceptHookArgs) -> None:
        if uncaught.exc_value is not None and uncaught.exc_type is not SystemExit:
            name = "?" if uncaught.thread is None else uncaught.thread.name
            log.error("Thread %s ended with an exception.", name, exc_info=uncaught.exc_value)

    logging.captureWarnings(capture=True)
    threading.excepthook = of_thread
    sys.excepthook = lambda _kind, error, _traceback: log.critical(
        "The process ended with an exception.", exc_info=error
    )


class JobLines(logging.Formatter):
    """Formats each record as one readable line.

    The lines of a job end with its id, task, queue, attempt and meta.
    """

    def __init__(self, meta: Collection[str] = ()) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._meta = tuple(meta)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line; if the message contains the job's id, only the meta is added."""
        line = super().formatMessage(record)
        job_id: object = getattr(record, "job_id", None)
        if job_id is None:
            return line
        names = self._meta if str(job_id) in record.message else (*_NAMES, *self._meta)
        fields = [f"{name}={value}" for name in names if (value := getattr(record, name, None)) is not None]
        return f"{line} [{' '.join(fields)}]" if fields else line


_RESERVED: Final = frozenset({"time", "level", "logger", "exception", "stack"})
_WRITTEN: Final = (date, Decimal, PurePath, UUID)  # `datetime` is a subclass of `date`


class JsonLines(logging.Formatter):
    """Formats each record as one line with a JSON object.

    The keys are `time`, `level`, `logger`, `message`, and the attributes that `extra=` and filters have set.
    An exception is an object with `type`, `message` and `traceback`. For a value that is not plain data,
    only the type is written, because the string form of an object might contain a secret.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of ASCII."""
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
    except Exception:  # noqa: BLE001 - the arguments do not fit the format; the line is written anyway
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
    except (TypeError, ValueError, RecursionError):  # unusual keys, NaN, or a list that contains itself
        return json.dumps(f"<{type(value).__name__}>")


def _written(value: object) -> object:
    if isinstance(value, set | frozenset):
        return list(value)
    return str(value) if isinstance(value, _WRITTEN) else f"<{type(value).__name__}>"
