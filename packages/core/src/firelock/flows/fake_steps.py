"""Steps of a task that is called directly, as in a unit test: without a server, storage or delays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from firelock.arguments.serializer import JsonSerializer
from firelock.arguments.signature import make_converter, returned_codec
from firelock.errors import StepError
from firelock.flows.steps import JobSteps
from firelock.model.answers import Applied
from firelock.model.memo import Memo, MemoKind, NewMemo, Remembered, memo_words
from firelock.model.session import ClaimHolder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from firelock.arguments.codec import Codec
    from firelock.context import JobContext
    from firelock.flows.signals import Signal
    from firelock.jobs.job import Job
    from firelock.model.job import ClaimedJob
    from firelock.options import Call


class _NoClient:
    """The parts of a client that steps use, without a storage: a serializer, codecs and a stopped clock."""

    def __init__(self) -> None:
        self.serializers = {"json": JsonSerializer()}
        self.clock = self.registry = self

    @staticmethod
    def now() -> int:
        return 0

    @staticmethod
    def returned_codec(function: Callable[..., object]) -> Codec:
        return returned_codec(function, make_converter)


class FakeRun:
    """A replacement for a server's run: steps run, and waits return the answers of the test."""

    def __init__(self, job: ClaimedJob, context: JobContext, answers: Mapping[str, object]) -> None:
        self._context = context
        self.completions: list[object] = []
        self.steps: JobSteps = FakeSteps(job, self, answers)

    @property
    def refusal(self) -> str | None:
        """The reason why the job must end; None if it may continue."""
        return (self._context.cancel_reason or "cancelled") if self._context.cancelled else None

    @property
    def has_right(self) -> bool:
        """Whether the job still belongs to this run; here, it always does."""
        return True

    @property
    def is_suspended(self) -> bool:
        """Whether the run waits; here, it never does."""
        return False

    def lose(self, reason: str, *, is_raised: bool) -> None:
        """Do nothing, because no other process can take the job."""

    def complete(self, session: object, result: object) -> None:
        """Keep the result; any session is accepted.

        Raises:
            JobCancelled: If the context was created with `cancelled=True`.
        """
        del session
        self._context.raise_if_cancelled()
        self.completions.append(result)


class FakeSteps(JobSteps):
    """Steps with memos in memory; a wait returns the test's answer, or raises an error if there is none."""

    def __init__(self, job: ClaimedJob, run: FakeRun, answers: Mapping[str, object]) -> None:
        nothing: Any = None  # never used, because nothing is stored
        super().__init__(
            job, ClaimHolder("", ""), cast("Any", _NoClient()), run, memos=nothing, flusher=nothing
        )
        self._answers = answers

    def _perform(self, request: object) -> object:
        if isinstance(request, NewMemo):
            return Remembered(Applied.APPLIED, request.memo)
        raise StepError("A task that is called directly has no storage; run it with a Tester.")

    async def _aperform(self, request: object) -> object:
        return self._perform(request)

    def emit(self, stream: str, data: str) -> None:
        """Discard the output, in the same way as log lines."""

    async def aemit(self, stream: str, data: str) -> None:
        """Discard the output."""

    def check_within(self) -> None:
        """Accept any session."""

    def _put_within(self, new: Memo, session: object) -> None:
        """Do nothing, because there is no storage."""

    async def _aput_within(self, new: Memo, session: object) -> None:
        """Do nothing, because there is no storage."""

    def step(self, name: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as its base
        """Return the answer of the test, or the result of the function."""
        if name not in self._answers:
            return super().step(name, *args, **kwargs)
        return self._drive(self._answered(MemoKind.STEP, name))

    async def astep(self, name: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as its base
        """Return the answer of the test, or the result of the function."""
        if name not in self._answers:
            return await super().astep(name, *args, **kwargs)
        return await self._adrive(self._answered(MemoKind.STEP, name))

    def _sleeping(self, name: str, span: timedelta | float | datetime) -> Generator[Any, Any, Any]:
        del span
        yield from self._answered(MemoKind.SLEEP, name)

    def _receiving(self, signal: Signal[Any], timeout: timedelta | float | None) -> Generator[Any, Any, Any]:
        del timeout
        return self._answered(MemoKind.SIGNAL, signal.name)

    def _calling(
        self, name: str, calls: Sequence[Call[Any]], *, is_one: bool = False
    ) -> Generator[Any, Any, Any]:
        del calls, is_one
        return self._answered(MemoKind.CALL, name)

    def _joining(self, job: Job[Any], name: str) -> Generator[Any, Any, Any]:
        del job
        return self._answered(MemoKind.CALL, name)

    def _answered(self, kind: MemoKind, name: str) -> Generator[Any, Any, Any]:
        if name not in self._answers:
            raise StepError(
                f"The task waits for {memo_words(kind, name)!r}, but no server can resume it. Pass the "
                f"answer with JobContext.fake(answers={{{name!r}: …}}), or run the task with a Tester."
            )
        answer = self._answers[name]
        if isinstance(answer, BaseException):
            raise answer
        return answer
        yield  # makes this a generator, like the methods that it replaces
