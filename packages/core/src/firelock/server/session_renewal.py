"""Keeps a server's sessions alive with one call a heartbeat, and grants each child its right to run."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable

import attrs

from firelock.errors import StorageUnavailable
from firelock.server.shared_memory import Board
from firelock.settings import Settings
from firelock.storage import NewSession, Renewal, Storage

__all__ = ["SessionKeeper"]

log = logging.getLogger(__name__)

_MARGIN_SECONDS, _MARGIN_SHARE = 1.0, 0.02
_QUICK_RETRY = 0.5
_FIRST_WAITS = (1.5, 3.0)


@attrs.define(eq=False)
class _Kept:
    session: NewSession
    board: Board
    state: str = "running"
    told_at: float = 0.0  # when the child made the report that was told last, in monotonic seconds
    told_cpu: float = 0.0  # what it said of its time on processors
    cpu_percent: float = 0.0  # of one processor, between the last two reports that were told

    def renewal(self, state: str) -> Renewal:
        """Return the session's wish to live on, with what its child last reported."""
        at, spent = self.board.reported_at, self.board.cpu_seconds
        if at > self.told_at:
            if self.told_at:
                self.cpu_percent = max(0.0, 100 * (spent - self.told_cpu) / (at - self.told_at))
            self.told_at, self.told_cpu = at, spent
        return Renewal(self.session.id, self.board.busy, state, self.board.rss_bytes, self.cpu_percent)


class SessionKeeper:
    """Renews every session of a server. A child may start jobs until its last good renewal has run out.

    The right to run counts from before the renewal was sent, on the monotonic clock, less a margin: it ends
    here before anybody else can see the session as dead.
    """

    def __init__(
        self,
        storage: Storage,
        settings: Settings,
        server_id: str,
        *,
        on_lost: Callable[[str], None],
        on_order: Callable[[str], None],
    ) -> None:
        self._storage = storage
        self._settings = settings
        self._server_id = server_id
        self._on_lost = on_lost
        self._on_order = on_order
        self._order_version: int | None = None
        self._kept: dict[str, _Kept] = {}
        self._condition = threading.Condition()
        self._is_over = False
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="firelock-sessions", daemon=True)

    def start(self) -> None:
        """Sessions are renewed from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Nothing is renewed any more."""
        with self._condition:
            self._is_over = True
            self._condition.notify()
        self._thread.join(self._settings.heartbeat + 1)

    def begin(self, session: NewSession, board: Board) -> None:
        """The session has begun and its child may start jobs.

        Raises:
            StorageError: it has not.
        """
        asked_at = time.monotonic()
        self._storage.begin_session(session)
        with self._condition:
            self._kept[session.id] = _Kept(session, board)
        board.begin_session()  # before the grant, which is not for what was claimed for a former session
        board.grant(self._right_from(asked_at))

    def forget(self, session_id: str) -> None:
        """The session is no longer renewed, and its child may start nothing."""
        with self._condition:
            kept = self._kept.pop(session_id, None)
            if kept is not None:
                kept.board.grant(0)

    def mark(self, state: str) -> None:
        """The sessions say this of themselves from their next renewal on: running, quiet, stopping."""
        with self._condition:
            for kept in self._kept.values():
                kept.state = state

    def _right_from(self, asked_at: float) -> float:
        timeout = self._settings.session_timeout
        margin = max(min(_MARGIN_SECONDS, timeout / 10), timeout * _MARGIN_SHARE)
        return asked_at + timeout - margin

    # ---- the loop ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        first = list(_FIRST_WAITS)  # at its start a server soon says what it takes: CPU needs two reports
        wait = min(first.pop(0), self._settings.heartbeat)
        while True:
            with self._condition:
                if not self._is_over:
                    self._condition.wait(wait * random.uniform(0.8, 1.0))  # noqa: S311 - servers drift apart
                if self._is_over:
                    return
            pause = first.pop(0) if first else self._settings.heartbeat
            wait = min(pause if self.renew() else _QUICK_RETRY, self._settings.heartbeat)

    def renew(self) -> bool:
        """Every session is renewed and orders are looked for; return whether the storage answered."""
        try:
            self._renew_all()
            self._look_for_orders()
        except StorageUnavailable as error:
            if not self._is_failing:
                log.warning("Sessions could not be renewed, trying again: %s", error)
        except Exception:  # if this thread ended, every session would be lost time after time
            log.exception("Sessions could not be renewed, trying again.")
        else:
            if self._is_failing:
                log.info("Sessions are renewed again.")
            self._is_failing = False
            return True
        self._is_failing = True
        return False

    def _renew_all(self) -> None:
        with self._condition:  # a board is closed once its session is forgotten
            kept = list(self._kept.values())
            renewals = [one.renewal(self._state_of(one)) for one in kept]
        asked_at = time.monotonic()
        alive = self._storage.renew(renewals) if renewals else []
        lost = []
        with self._condition:
            for one, is_alive in zip(kept, alive, strict=True):
                if one.session.id not in self._kept:
                    continue  # forgotten meanwhile: nobody may start jobs for it
                if is_alive:
                    one.board.grant(self._right_from(asked_at))
                else:
                    lost.append(one.session.id)
        for session_id in lost:
            self.forget(session_id)
            self._on_lost(session_id)

    def _state_of(self, kept: _Kept) -> str:
        return "overdue" if kept.board.silence() > 3 * self._settings.heartbeat else kept.state

    def _look_for_orders(self) -> None:
        record = self._storage.get_record("server_order", self._server_id)
        if record is None or record.version == self._order_version:
            return
        self._order_version = record.version
        order = json.loads(record.value)
        if order in {"quiet", "resume", "stop"}:
            self._on_order(order)
