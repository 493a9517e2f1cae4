"""A clock that a test moves manually, and that runs the jobs that become due in the meantime."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from firelock.errors import ConfigurationError
from firelock.model.clock import from_micros, micros, span_micros
from firelock.testing.manual_server import Drained, ManualServer
from firelock.testing.private import StillStorage

_ENDLESS = 2_000  # maximum number of due times in one advance; beyond it, an error suggests jump()


class ManualClock:
    """The clock of a `Tester`'s apps, which only these methods can move.

    `advance` goes from one due time to the next and runs the due jobs at each, as servers would have done in
    this time. `jump` sets the time directly and does not run any job, as if all servers had been down.
    """

    def __init__(self, storage: StillStorage, server: ManualServer) -> None:
        self._storage = storage
        self._server = server

    @property
    def now(self) -> datetime:
        """The current time, in UTC."""
        return from_micros(self._storage.clock())

    def advance(
        self,
        span: timedelta | None = None,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        raises: bool = False,
    ) -> Drained:
        """Move the clock forward by a duration, and run each job at its due time in this period.

        If a running job calls this method, no jobs are run, but runs that exceed their timeout are cancelled.

        Args:
            span: the duration, in addition to or instead of the units.
            days: a part of the duration.
            hours: a part of the duration.
            minutes: a part of the duration.
            seconds: a part of the duration.
            raises: whether to stop at the first error of a task and raise it.

        Raises:
            ConfigurationError: If the duration is negative.
        """
        return self.advance_to(self.now + _span(span, days, hours, minutes, seconds), raises=raises)

    async def aadvance(
        self,
        span: timedelta | None = None,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        raises: bool = False,
    ) -> Drained:
        """Do the same as `advance`, but run `async def` tasks on the running loop."""
        return await self.aadvance_to(self.now + _span(span, days, hours, minutes, seconds), raises=raises)

    def advance_to(self, instant: datetime, *, raises: bool = False) -> Drained:
        """Move the clock forward to this aware time, and run each job at its due time in this period.

        Raises:
            ConfigurationError: If the time has passed.
        """
        drained = Drained()
        for _ in self._stops(instant):
            drained += self._server.drain(None, None, raises=raises)
        return drained

    async def aadvance_to(self, instant: datetime, *, raises: bool = False) -> Drained:
        """Do the same as `advance_to`, but run `async def` tasks on the running loop."""
        drained = Drained()
        for _ in self._stops(instant):
            drained += await self._server.adrain(None, None, raises=raises)
        return drained

    def jump(
        self,
        span: timedelta | None = None,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Move the clock forward by a duration without running any jobs.

        Misfires of recurring jobs are handled as after an outage.

        Raises:
            ConfigurationError: If the duration is negative.
        """
        self._set(micros(self.now + _span(span, days, hours, minutes, seconds)))

    # ---- stops -------------------------------------------------------------------------------------------

    def _stops(self, until: datetime) -> Iterator[None]:
        """Set the clock to each due time and yield there, beginning with the current time; end at `until`."""
        target = micros(until)
        if target < self._storage.clock():
            raise ConfigurationError(
                f"The clock must not go back to {until.isoformat()}; it shows {self.now.isoformat()}."
            )
        if not self._server.running:
            for _ in range(_ENDLESS):
                yield
                instants = (self._server.bring_due(), self._server.opens_at)
                due_at = min((each for each in instants if each is not None), default=None)
                if due_at is None or due_at > target:
                    break
                self._set(max(due_at, self._storage.clock()))
            else:
                raise AssertionError(
                    f"The clock passed {_ENDLESS:,} due times, the last at {self.now.isoformat()}, and there "
                    "are more. Use a shorter duration, or jump()."
                )
        self._set(target)

    def _set(self, instant: int) -> None:
        self._storage.clock_offset += instant - self._storage.clock()
        self._server.time_out()


def _span(span: timedelta | None, days: float, hours: float, minutes: float, seconds: float) -> timedelta:
    units = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    total = units if span is None else span + units
    if span_micros(total) < 0:
        raise ConfigurationError(f"The duration must not be negative, got {total}.")
    return total
