"""A clock that a test moves by hand, which runs the jobs that become due on the way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from firelock.errors import ConfigurationError
from firelock.model.clock import from_micros, micros, span_micros
from firelock.testing.private import StillStorage
from firelock.testing.stepped import Drained, SteppedServer

_ENDLESS = 2_000  # stops of one advance, after which an error suggests jump()


class ManualClock:
    """The time of a `Tester`'s apps, which stands still until it is moved here.

    `advance` goes from one due time to the next and runs what is due there, as servers would have done in all
    that time. `jump` sets the time directly and runs nothing, as if all servers had been down.
    """

    def __init__(self, storage: StillStorage, server: SteppedServer) -> None:
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
        """Move the clock forward by a duration, and run everything at its own due time on the way.

        If a running job calls this, only the time passes, and runs above their timeout are cancelled.

        Args:
            span: the duration, in addition to or instead of the units.
            days: a part of the duration.
            hours: a part of the duration.
            minutes: a part of the duration.
            seconds: a part of the duration.
            raises: stop at the first error of a task, and raise it here.

        Raises:
            ConfigurationError: the duration is negative.
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
        """Do the same as `advance`, with `async def` tasks on the running loop."""
        return await self.aadvance_to(self.now + _span(span, days, hours, minutes, seconds), raises=raises)

    def advance_to(self, instant: datetime, *, raises: bool = False) -> Drained:
        """Move the clock forward to this aware time, and run everything at its own due time on the way.

        Raises:
            ConfigurationError: the time has passed.
        """
        drained = Drained()
        for _ in self._stops(instant):
            drained += self._server.drain(None, None, raises=raises)
        return drained

    async def aadvance_to(self, instant: datetime, *, raises: bool = False) -> Drained:
        """Do the same as `advance_to`, with `async def` tasks on the running loop."""
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
        """Move the clock forward by a duration without running anything on the way.

        Misfires are treated as after an outage.

        Raises:
            ConfigurationError: the duration is negative.
        """
        self._set(micros(self.now + _span(span, days, hours, minutes, seconds)))

    # ---- stops -------------------------------------------------------------------------------------------

    def _stops(self, until: datetime) -> Iterator[None]:
        """Set the clock to each due time and yield there, beginning with the current time; end at `until`."""
        target = micros(until)
        if target < self._storage.clock():
            raise ConfigurationError(
                f"{until.isoformat()} has passed: it is {self.now.isoformat()}. Time goes forward only."
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
                    f"{_ENDLESS:,} instants were passed, the last one {self.now.isoformat()}, and more are "
                    "due. Advance by less, or jump."
                )
        self._set(target)

    def _set(self, instant: int) -> None:
        self._storage.clock_offset += instant - self._storage.clock()
        self._server.time_out()


def _span(span: timedelta | None, days: float, hours: float, minutes: float, seconds: float) -> timedelta:
    units = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    total = units if span is None else span + units
    if span_micros(total) < 0:
        raise ConfigurationError(f"{total} is negative: time goes forward only.")
    return total
