"""Time that a test moves by hand, and what falls due on the way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from firelock.errors import ConfigurationError
from firelock.model.clock import from_micros, micros, span_micros
from firelock.testing.private import StillStorage
from firelock.testing.stepped import Drained, SteppedServer

_ENDLESS = 2_000  # instants on one way from which on a test is told to jump


class ManualClock:
    """The time of a `Tester`'s apps: it stands still until it is moved here.

    `advance` goes from one due instant to the next and runs there what is due, as servers would have done in
    all that time. `jump` goes at once and runs nothing, as if all servers had been down.
    """

    def __init__(self, storage: StillStorage, server: SteppedServer) -> None:
        self._storage = storage
        self._server = server

    @property
    def now(self) -> datetime:
        """The present instant, in UTC."""
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
        """It is that much later, and everything that fell due on the way has been run at its own instant.

        Called by a job that is running, it only lets the time pass: jobs above their timeout are told so.

        Args:
            span: how much later, beside or instead of the units.
            days: a part of the span.
            hours: a part of the span.
            minutes: a part of the span.
            seconds: a part of the span.
            raises: the first error of a task ends it and is raised here.

        Raises:
            ConfigurationError: the span is negative.
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
        """Advance with `async def` tasks on the running loop."""
        return await self.aadvance_to(self.now + _span(span, days, hours, minutes, seconds), raises=raises)

    def advance_to(self, instant: datetime, *, raises: bool = False) -> Drained:
        """It is this aware instant, and everything that fell due on the way has been run at its own instant.

        Raises:
            ConfigurationError: the instant has passed.
        """
        drained = Drained()
        for _ in self._stops(instant):
            drained += self._server.drain(None, None, raises=raises)
        return drained

    async def aadvance_to(self, instant: datetime, *, raises: bool = False) -> Drained:
        """Advance to an instant with `async def` tasks on the running loop."""
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
        """It is that much later at once: nothing has run meanwhile, and misfires are met as after an outage.

        Raises:
            ConfigurationError: the span is negative.
        """
        self._set(micros(self.now + _span(span, days, hours, minutes, seconds)))

    # ---- on the way --------------------------------------------------------------------------------------

    def _stops(self, until: datetime) -> Iterator[None]:
        """Stand at each instant at which something is due, now first; at the end it is `until`."""
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
