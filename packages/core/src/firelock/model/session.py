"""Sessions, the leases of worker processes, and what they hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs

from firelock.model.answers import Applied
from firelock.model.job import ClaimedJob
from firelock.model.state import FINAL_STATES, State


@attrs.frozen
class ClaimHolder:
    """Who runs a job: its session and the name of its server."""

    session: str
    server: str


@attrs.frozen
class ClaimRequest:
    """What a session asks for when it claims."""

    queues: Sequence[str] | None  # in the order in which they are taken; None: all, each getting its share
    limit: int  # jobs at most
    session: str
    now: int  # stamp of what is claimed
    left_out: Collection[str] = ()  # tasks whose jobs it does not take; then it looks at few candidates


@attrs.frozen
class Claim:
    """What a claim took, and when to look again at the latest."""

    jobs: list[ClaimedJob]
    next_due_at: int | None = (
        None  # earliest instant of a scheduled or recurring job; None where none is known
    )
    is_session_lost: bool = False  # the session is dead: nothing was taken, nothing ever will be
    look_again_at: int | None = None  # when a rate opens for what waits; now where more lanes are to be seen


@attrs.frozen
class Exchange:
    """What an exchange did: one result a transition, in order, and the claim."""

    results: list[Applied]
    claim: Claim


@attrs.frozen
class Promotion:
    """How many due jobs were moved to their queues, and the next due instant."""

    promoted: int
    next_due_at: int | None


@attrs.frozen
class NewSession:
    """A new lease of a worker process. The supervisor creates the id, so a repeated call is harmless."""

    id: str
    server_id: str
    server: str  # name for people: host:pid, or as given
    host: str
    pid: int
    started_at: int
    timeout_seconds: float
    workers: int = 0
    queues: str = "*"  # for people, as given to the server
    version: str = ""


@attrs.frozen
class Renewal:
    """One session's wish to live on, with what its worker process reports."""

    session: str
    busy: int = 0
    state: str = "running"  # running, quiet, overdue (silent), retired, ending, or stopping: its last word
    rss_bytes: int = 0
    cpu_percent: float = 0.0
    stuck_threads: int = 0  # taken by jobs that go on after their timeout
    stuck_coroutines: int = 0  # likewise
    parked: int = 0  # ends that wait for a locked row


@attrs.frozen
class SessionRecord:
    """A session as stored."""

    session: NewSession
    expires_at: int  # by the storage's clock
    is_alive: bool  # False for ever once marked dead
    renewal: Renewal
    is_closing: bool = False  # dead, and may still hold jobs: see `Storage.end_session`


@attrs.frozen
class HeldClaim:
    """One claim that a worker process believes it holds."""

    job_id: str
    fence: int
    started_at: int | None = None  # set once the job has run for a while: it is written to the job


@attrs.frozen
class LostClaim:
    """A claim that a worker process believed it held, and what is stored of its job."""

    held: HeldClaim  # as the worker process named it
    state: State | None = None  # None: no such job is stored
    fence: int = 0  # of the job's latest claim
    has_tail: bool = False  # a holder may still be running it: see `Standing.is_stopping`

    @property
    def is_gone(self) -> bool:
        """Whether no such job is stored."""
        return self.state is None

    @property
    def has_ended(self) -> bool:
        """Whether the job is final, was not claimed again, and nobody took it from its holder."""
        return self.state in FINAL_STATES and self.fence == self.held.fence and not self.has_tail


@attrs.frozen
class Reconciliation:
    """How a worker process's belief differs from the storage's."""

    is_session_lost: bool
    lost: list[LostClaim]  # claims that the session does not hold, in the order in which they were named
    unknown: list[ClaimedJob]  # the session's, says the storage; the worker process did not name them
    busy: list[str] = attrs.Factory(list)  # ids of locked jobs, whose start was not written


@attrs.frozen
class Taken:
    """What was taken back from one dead session."""

    session: str
    server: str
    crashed: list[str]  # ids of jobs that got a crash
    returned: list[str]  # ids of jobs that had not started
    left: int = 0  # jobs that the session still holds, because other transactions have locked their rows
