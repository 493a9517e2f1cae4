"""What a child holds and owes: claims by id, ends not yet known to be written, jobs to hand back.

Used by the dispatcher's thread alone, so that a reconciliation never races a claim of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from firelock import lifecycle
from firelock.errors import StorageError, StorageUnavailable
from firelock.failure import describe_failure
from firelock.server.executors import Desk, Ticket
from firelock.server.runner import Ended, Run
from firelock.storage import Applied, Claim, Exchange, Held
from firelock.values import ClaimedJob, Holder, Settled, State, Transition

if TYPE_CHECKING:
    from firelock.runtime import Runtime
    from firelock.server.metrics import Metrics

__all__ = ["Settler"]

log = logging.getLogger(__name__)

_SHOWN_AS_STARTED = 1.0  # seconds from which `started_at` is written while the job still runs
_IN_STORAGE = frozenset(result for result in Applied if result.is_applied)


class Settler:
    """Sends ends until the storage has answered for each; it may answer that the job is no longer ours."""

    def __init__(self, runtime: Runtime, desk: Desk, metrics: Metrics) -> None:
        self._client = runtime.client
        self._storage = runtime.storage
        self._plugins = runtime.plugins
        self._retention = runtime.settings.retention
        self._desk = desk
        self._metrics = metrics
        self._unsent: list[Ended] = []
        self._back: list[Transition] = []
        self.held: dict[str, Ticket] = {}
        self.refused = 0  # late ends that the storage refused
        self.settled = 0
        self.owes_claim = False  # an exchange was refused, and its claim has not been made

    # ---- what is owed ------------------------------------------------------------------------------------

    def collect(self) -> None:
        """What executors have ended is owed now."""
        ended = self._desk.ended
        while ended:
            self._unsent.append(ended.popleft())

    def owe(self, ended: Ended) -> None:
        """An end that no executor gave is owed."""
        self._unsent.append(ended)

    def hand_back(self, job: ClaimedJob, holder: Holder, at: int, reason: str) -> None:
        """A job that never started goes back to its place in the queue with the next exchange."""
        self._back.append(lifecycle.handed_back(job, holder, at=at, started_at=None, reason=reason))

    def drop_all(self) -> None:
        """The session is lost: nothing is held any more, and nobody waits for what would be handed back."""
        for ticket in self.held.values():
            ticket.is_dropped = True
        self.held.clear()
        self._back.clear()

    @property
    def unsettled(self) -> int:
        """How many ends wait to be sent or answered."""
        return len(self._unsent)

    @property
    def unended(self) -> int:
        """How many of the jobs held have not ended."""
        return len(self.held) - len(self._unsent) - len(self._desk.ended)

    def unended_tickets(self) -> list[Ticket]:
        """Return the jobs held that have not ended, of what was collected."""
        ended = {(end.job.id, end.job.fence) for end in self._unsent}
        return [ticket for ticket in self.held.values() if (ticket.job.id, ticket.job.fence) not in ended]

    def beliefs(self, runs: Sequence[Run]) -> list[Held]:
        """Return what is held, to be compared; with its start where it has run for long and was not told."""
        long_ago = time.monotonic() - _SHOWN_AS_STARTED
        starts = {run.job.id: run.started_at for run in runs if run.started and run.started < long_ago}
        return [
            Held(job_id, ticket.job.fence, None if ticket.is_start_told else starts.get(job_id))
            for job_id, ticket in self.held.items()
        ]

    def told(self, beliefs: Sequence[Held]) -> None:
        """The storage knows the starts among these: each is written once."""
        for one in beliefs:
            ticket = self.held.get(one.job_id)
            if ticket is not None and one.started_at is not None and ticket.job.fence == one.fence:
                ticket.is_start_told = True

    @property
    def has_hand_backs(self) -> bool:
        """Tell whether jobs wait to be handed back."""
        return bool(self._back)

    @property
    def holds_nothing(self) -> bool:
        """Tell whether everything claimed has been settled."""
        return not self.held and not self._unsent and not self._desk.ended and not self._back

    def transitions(self) -> list[Transition]:
        """Return what is owed, ends first, after what the jobs said is written."""
        transitions = [ended.transition for ended in self._unsent] + self._back
        if transitions:
            self._desk.console.flush(self._storage)
        return transitions

    # ---- sending -----------------------------------------------------------------------------------------

    def exchange(
        self, transitions: list[Transition], order: Sequence[str] | None, limit: int, session: str, now: int
    ) -> Exchange:
        """Settle and claim in one; where that is refused, settle alone, so that a bad claim loses no end."""
        try:
            return self._storage.exchange(transitions, order, limit, session, now)
        except StorageUnavailable:
            raise
        except StorageError:
            log.exception("An exchange was refused; settling first, claiming in the next turn.")
            self.owes_claim = True
            return Exchange(self.apply(transitions), Claim([]))

    def apply(self, transitions: list[Transition]) -> list[Applied]:
        """Settle; where a batch is refused, one by one, so that one bad end hinders no other."""
        try:
            return self._storage.apply(transitions)
        except StorageUnavailable:
            raise
        except StorageError as error:
            if len(transitions) > 1:
                return [result for transition in transitions for result in self.apply([transition])]
            return self._apply_poisoned(transitions[0], error)

    def _apply_poisoned(self, transition: Transition, error: StorageError) -> list[Applied]:
        """Settle a job whose end the storage refuses to write: as failed, with the storage's words."""
        log.error("The end of job %s cannot be stored: %s", transition.job_id, error)
        if transition.session is None or transition.fence is None:
            return [Applied.REFUSED]
        info = attrs.evolve(describe_failure(error), traceback=None)
        bare = attrs.evolve(
            transition, to=State.FAILED, reason=f"its end could not be stored: {info.message}", error=info,
            gives_back=False, retries=None, due_at=None, result=None, result_absent=None, is_silent=False,
            expires_at=self._retention.until(State.FAILED, transition.at),
        )  # fmt: skip
        try:
            return self._storage.apply([bare])
        except StorageUnavailable:
            raise
        except StorageError:
            log.exception("Nothing can be stored about job %s; its end is given up.", transition.job_id)
            return [Applied.REFUSED]

    # ---- what came of it ---------------------------------------------------------------------------------

    def answered(self, results: Sequence[Applied]) -> bool:
        """Nothing that was answered is owed any more; return whether continuations are to be released."""
        ended, self._unsent = self._unsent, []
        self._back.clear()
        if not ended:
            return False
        held = self.held
        accepted: list[Ended] = []
        for end, result in zip(ended, results, strict=False):  # hand-backs are answered behind the ends
            ticket = held.get(end.job.id)
            if ticket is not None and ticket.job.fence == end.job.fence:
                del held[end.job.id]
            if result in _IN_STORAGE:
                accepted.append(end)
                if end.tell is not None:
                    end.tell()
            else:
                self.refused += 1
                log.info("The end of job %s was refused: it is no longer ours.", end.job.id)
        self.settled += len(accepted)
        self._metrics.add(
            (end.job, outcome, end.transition.at, end.duration)
            for end in accepted
            if (outcome := _outcome(end.transition)) is not None
        )
        if accepted and self._plugins.has_jobs_settled:
            self._plugins.jobs_settled([Settled(end.job, end.transition, end.duration) for end in accepted])
        return Applied.RELEASING in results or any(end.frees_children for end in accepted)

    def release(self) -> None:
        """Continuations that the last ends set free are moved; upkeep does what is left."""
        self._client.release_children()


def _outcome(transition: Transition) -> str | None:
    """Return under which word an end is counted; None for one that is no end, such as a hand-back."""
    to = transition.to
    if to is State.SUCCEEDED:
        return "succeeded"
    if transition.crashes is not None:
        return "crashed"
    if to is State.SCHEDULED or to is State.ENQUEUED:
        return None if transition.retries is None else "retried"
    return str(to)
