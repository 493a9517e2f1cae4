"""Signals: named, typed values that are sent to a job, which waits for them now or later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import attrs

from firelock.arguments.signature import ValueCodec
from firelock.errors import (
    ArgumentError,
    ArgumentTooLarge,
    ConfigurationError,
    JobConflict,
    JobNotFound,
    StepError,
)
from firelock.flows.approval import ApprovalLink, make_link
from firelock.jobs.group_commit import repeat_once
from firelock.jobs.job import Job
from firelock.model.aio import in_thread, twin
from firelock.model.answers import Applied
from firelock.model.batch import BATCH_TASK
from firelock.model.clock import micros, span_micros
from firelock.model.job import JobRecord
from firelock.model.memo import (
    MEMO_BYTES,
    MEMOS_BYTES,
    MEMOS_LIMIT,
    Memo,
    MemoKind,
    NewMemo,
    Remembered,
)
from firelock.model.state import State
from firelock.model.text import shown

if TYPE_CHECKING:
    from firelock.arguments.forms import Parameter, ValueForm
    from firelock.jobs.client import Client

T = TypeVar("T")

TIMED_OUT = "timeout"
"""The author of the memo that a job writes itself if no signal is sent in time."""

_NOT_STORED = "Job {job} is not stored: the id is wrong, or it has been pruned."
_ENDED = frozenset({State.SUCCEEDED, State.DELETED})  # not FAILED: failed jobs can be requeued
_LONGEST_NAME = 200
_LONGEST_AUTHOR = 200


@attrs.frozen(eq=False, repr=False)
class Signal(Generic[T]):
    """A name and the type of its payload; `job.receive` waits for the signal, and `send` sends it.

    It is created by `fire.signal(name, type)`. The first answer wins. An answer is either a payload, which
    may be sent before the job waits for it, or the timeout.
    """

    name: str
    type: type[T]
    _client: Client
    _codec: ValueCodec
    _form: Callable[[], ValueForm]

    def __repr__(self) -> str:
        """Return the name and type."""
        return f"<Signal {self.name!r} of {getattr(self.type, '__name__', self.type)}>"

    def named(self, key: str, /) -> Signal[T]:
        """Return the same signal for another wait of the same job: `approval.named("manager")`.

        Raises:
            ConfigurationError: If the name would be longer than 200 characters, or not printable.
        """
        return attrs.evolve(self, name=check_name(f"{self.name}:{key}"))

    def encode(self, payload: T, /) -> str:
        """Return the string in which a payload is stored.

        Raises:
            ArgumentError: If the payload is not of the signal's type, or would not be equal after decoding.
            ArgumentTooLarge: If the string is larger than 256 KiB.
        """
        text = self._codec.encode_text(payload)
        size = len(text.encode(errors="surrogatepass"))
        if size > MEMO_BYTES:
            raise ArgumentTooLarge(
                f"The payload of signal {self.name!r} has {size:,} bytes, above the limit of {MEMO_BYTES:,}; "
                "store it elsewhere and send a reference."
            )
        return text

    def decode(self, text: str, /) -> T:
        """Return the payload of a stored string.

        Raises:
            ArgumentError: If the string is damaged, or does not fit the current type of the signal.
        """
        return cast("T", self._codec.decode_text(text))

    def parameters(self) -> list[Parameter]:
        """Return, in order, the fields of a form that requests a payload.

        They are the fields of an attrs class or a dataclass; any other type has one field, named `value`.
        """
        return self._form().parameters()

    def payload_from_text(self, values: Mapping[str, str], /) -> T:
        """Return the payload from the strings of a form, which are keyed by the names in `parameters`.

        The strings are read in the same way as `Firelock.arguments_from_text` reads the strings of a task's
        form.

        Raises:
            FormError: If a string cannot be read, a required field has none, or a name is unknown; its
                `fields` contain the problem of each field.
        """
        return cast("T", self._form().read(values))

    def send(
        self, job: Job[Any] | str, payload: T, /, *, author: str = "", within: object | None = None
    ) -> bool:
        """Send this answer to the job, which uses it now if it is waiting, or else when it reaches the wait.

        Return True if the job keeps this answer, even if the same answer was sent before. Return False if
        another answer or the timeout came first. A failed job keeps the answer and uses it after a requeue.
        The answer joins the caller's transaction, as an enqueued job does: the job continues after the
        commit. The job's row is locked until then.

        Args:
            job: a handle or an id.
            payload: a value of the signal's type.
            author: the displayed name of the sender; at most 200 printable characters.
            within: your own transaction in the storage's database; the answer is committed or rolled back
                with it.

        Raises:
            JobConflict: If the job has succeeded or was deleted, or is a batch.
            JobNotFound: If no such job is stored.
            JobNotCommitted: If the transaction of the job has not committed, or was rolled back, and the
                answer is sent outside of that transaction.
            StepError: If the job has reached the limit of its memos.
            ArgumentError: If the payload is not of the type, or would not be equal after decoding.
            ConfigurationError: If the author is too long, or contains characters that cannot be printed.
        """
        return self._send(job, payload, author, self._client.transaction(within))

    async def asend(
        self, job: Job[Any] | str, payload: T, /, *, author: str = "", within: object | None = None
    ) -> bool:
        """Call `send` without blocking the event loop."""
        if within is None:
            return await in_thread(self._send, job, payload, author, None)
        chosen = self._client.transaction(within)
        run_sync = getattr(chosen, "run_sync", None)  # an AsyncSession has this method
        if run_sync is None:
            return self._send(job, payload, author, chosen)
        is_first: bool = await run_sync(lambda session: self._send(job, payload, author, session))
        return is_first

    def _send(self, job: Job[Any] | str, payload: T, author: str, within: object | None) -> bool:
        job_id, text = self._job_id(job, within), self.encode(payload)
        new = answer(job_id, self.name, text, at=self._client.clock.now(), author=_author(author))
        try:
            return self._is_first(job_id, new.memo, self._remember(new, within))
        except JobNotFound as error:
            if isinstance(job, Job):
                job.explain(error)
            raise

    def _remember(self, new: NewMemo, within: object | None) -> Remembered:
        if within is not None:
            return self._client.storage.remember((new,), within=within)[0]
        return repeat_once(lambda: self._client.storage.remember((new,)))[0]  # sending it twice is safe

    def _is_first(self, job_id: str, memo: Memo, result: Remembered) -> bool:
        """Return whether the job keeps this answer instead of an earlier one."""
        kept = result.memo
        if result.answer is Applied.MISSING:
            raise JobNotFound(_NOT_STORED.format(job=shown(job_id)))
        if result.answer is Applied.APPLIED:
            return True
        if kept is not None and kept.is_done:
            return (kept.value, kept.author) == (memo.value, memo.author)
        record = self._client.storage.get((job_id,))[0]
        if record is None or record.state in _ENDED:
            raise JobConflict(self._ended_words(job_id, record))
        raise StepError(
            f"Job {job_id} has reached the limit of its memos, {MEMOS_LIMIT:,} memos with {MEMOS_BYTES:,} "
            f"bytes of values, so signal {self.name!r} cannot be stored. Let the job end, and continue in a "
            "new job."
        )

    def _ended_words(self, job_id: str, record: JobRecord | None) -> str:
        state = "no longer stored" if record is None else record.state
        return f"Job {job_id} is {state}; signal {self.name!r} would never be received."

    def link(
        self,
        job: Job[Any] | str,
        choices: Mapping[str, T],
        /,
        *,
        expires: timedelta | datetime,
        at: str,
        question: str = "",
        name: str = "",
    ) -> str:
        """Return the URL of a dashboard page with one button for each choice.

        Every holder of the link may send one of the choices, once, and cannot see anything else. The audit
        log shows who sent the answer. The link is stored immediately, not in a transaction of the caller.

        Args:
            job: a handle or an id.
            choices: the payloads that the buttons send, keyed by the text of the button; at most 20.
            expires: an aware datetime, or a timedelta from now, after which the link sends nothing.
            at: the dashboard's URL for a browser: "https://ops.example.com/jobs".
            question: the question on the page, for the person who decides.
            name: the person for whom the link is made, for the audit log.

        Raises:
            ConfigurationError: If `at` is not such a URL, or a choice, its text, the question or the name is
                not valid.
            ArgumentError: If a payload is not of the type.
            JobConflict: If the job has succeeded or was deleted, or is a batch, so it would not receive an
                answer.
            JobNotFound: If no such job is stored.
        """
        job_id = self._job_id(job)
        record = self._client.storage.get((job_id,))[0]
        if record is None:
            raise JobNotFound(_NOT_STORED.format(job=shown(job_id)))
        if record.state in _ENDED:
            raise JobConflict(self._ended_words(job_id, record))
        payloads = {label: self.encode(payload) for label, payload in choices.items()}
        if isinstance(expires, timedelta) and expires > timedelta():
            expires_at = self._client.clock.now() + span_micros(expires)
        elif isinstance(expires, datetime):
            expires_at = micros(expires)
        else:
            raise ConfigurationError(
                f"expires must be a positive timedelta or an aware datetime, got {shown(expires)}."
            )
        approval = ApprovalLink(job_id, self.name, payloads, expires_at, question, name)
        return make_link(self._client.storage, approval, at=at)

    alink = twin(link)

    def _job_id(self, job: Job[Any] | str, within: object | None = None) -> str:
        if isinstance(job, str):
            return job
        if not isinstance(job, Job):
            raise ConfigurationError(
                f"A signal can be sent only to a job, by handle or id, got {shown(job)}."
            )
        if job.task == BATCH_TASK:
            raise JobConflict(
                f"{job!r} is a batch, which cannot receive signals; send the signal to a member."
            )
        return job.as_source(None, lambda: within)


def answer(job_id: str, name: str, value: str, *, at: int, author: str) -> NewMemo:
    """Return the argument of `Storage.remember` for an answer that comes from outside the job.

    Args:
        job_id: the job that receives the signal.
        name: the name of the signal, including its key if it has one.
        value: JSON of the signal's type.
        at: micros, of the storage's clock.
        author: the displayed name of the sender.
    """
    return NewMemo(job_id, Memo(MemoKind.SIGNAL, name, value, is_done=True, at=at, author=author))


def why_not_answered(
    job: JobRecord | None, name: str, value: str, signal: Signal[Any] | None, *, is_early: bool = False
) -> str | None:
    """Return why an answer from outside the job is not accepted, as a sentence; None if it may be sent.

    Args:
        job: the stored job; None if it was not found, because the storage reports this itself.
        name: the name of the signal, including its key if it has one.
        value: JSON of the signal's type.
        signal: the signal of that name in an app that has the tasks, from `Firelock.signal_named`.
        is_early: whether to accept the answer even if the job is waiting for another signal.
    """
    if signal is not None:
        try:
            signal.decode(value)
        except ArgumentError as error:
            return f"{shown(value)} is not a valid payload of signal {name!r}: {error}. {_wanted(signal)}"
    kind, _, awaited = ("" if job is None else job.waits_for or "").partition(" ")
    if job is None or job.is_final or kind != MemoKind.SIGNAL or awaited == name or is_early:
        return None
    return f"Job {job.id} waits for signal {awaited!r} now, not for {shown(name)}."


def _wanted(signal: Signal[Any]) -> str:
    """Return a sentence that describes the payload: "Approval has the fields ok (bool), by (str)"."""
    fields = signal.parameters()
    type_name = getattr(signal.type, "__name__", str(signal.type))
    if [field.name for field in fields] == ["value"] and fields[0].annotation_text == type_name:
        return f"Send JSON of the type {type_name}."
    described = ", ".join(
        f"{field.name} ({field.annotation_text}{'' if field.is_required else ', optional'})"
        for field in fields
    )
    return f"{type_name} has the fields {described}."


def check_name(name: object) -> str:
    """Return the name of a signal.

    Raises:
        ConfigurationError: If the name does not have 1 to 200 printable characters.
    """
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise ConfigurationError(
            f"A signal name must have 1 to {_LONGEST_NAME} printable characters, got {shown(name)}."
        )
    return name


def _author(author: object) -> str:
    if not isinstance(author, str) or len(author) > _LONGEST_AUTHOR or not (author.isprintable()):
        raise ConfigurationError(
            f"author must be a string of at most {_LONGEST_AUTHOR} printable characters, got {shown(author)}."
        )
    if author == TIMED_OUT:
        raise ConfigurationError(
            f"author must not be {author!r}, which is reserved for a wait that has timed out."
        )
    return author
