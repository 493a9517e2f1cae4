"""Sessions, which are the leases of worker processes, and the jobs that they hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs

from firelock.model.answers import Applied
from firelock.model.job import ClaimedJob
from firelock.model.state import FINAL_STATES, State


@attrs.frozen
class ClaimHolder:
    """The session and server that hold a claimed job."""

    session: str
    server: str


@attrs.frozen
class ClaimRequest:
    """The parameters of a claim."""

    # The queues, in the order in which jobs are claimed; None means all queues in equal shares.
    queues: Sequence[str] | None
    limit: int  # the maximum number of jobs to claim
    session: str
    now: int  # the timestamp of the claimed jobs
    # The tasks whose jobs are not claimed; such a claim checks a bounded number of candidates.
    left_out: Collection[str] = ()


@attrs.frozen
class Claim:
    """The claimed jobs, and the latest time for the next claim."""

    jobs: list[ClaimedJob]
    next_due_at: int | None = (
        None  # the earliest due time of a scheduled or recurring job; None if none is known
    )
    is_session_lost: bool = False  # whether the session has ended, so that it cannot claim any jobs
    # The time when a rate next allows a waiting job to start; the current time if more lanes must be checked.
    next_claim_at: int | None = None


@attrs.frozen
class Exchange:
    """The result of an exchange: one result per transition, in order, and the claim."""

    results: list[Applied]
    claim: Claim


@attrs.frozen
class Promotion:
    """The number of due jobs that were moved to their queues, and the next due time."""

    promoted: int
    next_due_at: int | None


@attrs.frozen
class NewSession:
    """A new lease of a worker process. The supervisor creates the id, so a repeated call is harmless."""

    id: str
    server_id: str
    server: str  # a display name: host:pid, or as configured
    host: str
    pid: int
    started_at: int
    timeout_seconds: float
    workers: int = 0
    queues: str = "*"  # the queues as passed to the server, for display
    version: str = ""


@attrs.frozen
class Renewal:
    """A request to renew one session, with the report of its worker process."""

    session: str
    busy: int = 0
    state: str = "running"  # its last report: running, quiet, overdue (silent), retired, ending or stopping
    rss_bytes: int = 0
    cpu_percent: float = 0.0
    stuck_threads: int = 0  # threads occupied by jobs that continue after their timeout
    stuck_coroutines: int = 0  # coroutines of jobs that continue after their timeout
    parked: int = 0  # number of outcomes that wait for a locked row


@attrs.frozen
class SessionRecord:
    """A session as it is stored."""

    session: NewSession
    expires_at: int  # time at which the session expires, by the storage's clock
    is_alive: bool  # permanently False after the session has been marked as ended
    renewal: Renewal
    is_closing: bool = False  # whether it has ended but might still hold jobs: see `Storage.end_session`


@attrs.frozen
class HeldClaim:
    """One claim that a worker process believes it holds."""

    job_id: str
    fence: int
    started_at: int | None = None  # set and stored with the job when the job has run for a while


@attrs.frozen
class LostClaim:
    """A claim that a worker process believed it held, and the stored values of its job."""

    held: HeldClaim  # the claim as the worker process reported it
    state: State | None = None  # the job's state; None if the job is not stored
    fence: int = 0  # the fence of the job's latest claim
    has_tail: bool = False  # whether a session may still be running it: see `Standing.is_stopping`

    @property
    def is_gone(self) -> bool:
        """Whether the job is no longer stored."""
        return self.state is None

    @property
    def has_ended(self) -> bool:
        """Whether the job has ended without another claim and without being taken from its holder."""
        return self.state in FINAL_STATES and self.fence == self.held.fence and not self.has_tail


@attrs.frozen
class Reconciliation:
    """The differences between a worker process's claims and the claims that the storage shows."""

    is_session_lost: bool
    lost: list[LostClaim]  # claims that the session does not hold, in the order in which they were passed
    unknown: list[ClaimedJob]  # claims of the session in the storage that the worker process did not list
    busy: list[str] = attrs.Factory(list)  # ids of locked jobs, whose start times were not stored


@attrs.frozen
class Taken:
    """The jobs that were taken from one ended session."""

    session: str
    server: str
    crashed: list[str]  # ids of jobs whose number of crashes was increased
    returned: list[str]  # ids of jobs that had not started
    left: int = 0  # jobs that the session still holds, because other transactions have locked their rows
