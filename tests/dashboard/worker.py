"""A worker that a test controls: it claims a job and ends it as the test requires."""

from __future__ import annotations

from datetime import timedelta

from firelock.model import lifecycle
from firelock.model.ids import new_id
from firelock.model.session import ClaimHolder
from firelock.storage import ClaimRequest, ErrorInfo, HeldClaim, LogLine, NewSession, Progress

TRACE = """Traceback (most recent call last):
  File "/lib/site-packages/smtp.py", line 3, in connect
    self.dial()
  File "/lib/site-packages/smtp.py", line 9, in dial
    raise OSError()
OSError: no route

That caused the following:

Traceback (most recent call last):
→ File "/srv/shop/mail.py", line 12, in send
    connect(host)
TimeoutError: SMTP timed out"""


def failure(message="SMTP timed out", *, traceback=TRACE):
    return ErrorInfo("TimeoutError", message, "f1", traceback)


class Worker:
    """A worker with one session on the app's storage."""

    def __init__(self, fire, name="web-1:42", *, queues="*", workers=4, timeout=30.0):
        self.storage = fire.storage
        self.holder = ClaimHolder(new_id(), name)
        now = self.storage.clock()
        session = NewSession(
            self.holder.session, f"id-{name}", name, "web-1", 42, now, timeout, workers, queues
        )
        self.storage.begin_session(session)

    def claim(self, *, started=True):
        """Claim the next job of any queue; the job has been running for a second."""
        now = self.storage.clock()
        job = self.storage.claim(ClaimRequest(None, 1, self.holder.session, now)).jobs[0]
        if started:
            self.storage.reconcile(self.holder.session, [HeldClaim(job.id, job.fence, now + 2_000)])
        return job

    def succeed(self, job, result="null"):
        now = self.storage.clock()
        self._apply(
            lifecycle.succeeded(
                job, self.holder, at=now, started_at=job.claimed_at, result=result, result_absent=None,
                expires_at=now + 10**12,
            )
        )  # fmt: skip

    def fail(self, job, error=None, *, reason="not retried"):
        now, error = self.storage.clock(), error or failure()
        self._apply(
            lifecycle.failed(
                job, self.holder, at=now, started_at=job.claimed_at, reason=reason, error=error,
                expires_at=now + 10**12,
            )
        )  # fmt: skip

    def retry(self, job, error=None, *, wait=600_000_000):
        now, error = self.storage.clock(), error or failure()
        self._apply(
            lifecycle.retried(
                job,
                self.holder,
                at=now,
                started_at=job.claimed_at,
                wait=wait,
                reason="retry 1 of 3",
                error=error,
            )
        )

    def log(self, job, *texts, level="info", done=None):
        now = self.storage.clock()
        lines = [LogLine(0, now, level, text, job.attempt) for text in texts]
        progress = {} if done is None else {job.id: Progress(done, 10.0, now + 2_000_000, "half way")}
        self.storage.append_logs({job.id: lines}, progress)

    def _apply(self, transition):
        assert self.storage.apply([transition])[0].is_applied


def job_in(fire, send, state):
    """Return a job of the task in this state; for "awaiting", the job waits for another job."""
    if state == "scheduled":
        return send.schedule(timedelta(hours=1), 1)
    job = send.enqueue(1)
    if state in {"processing", "succeeded", "failed", "retrying"}:
        worker = Worker(fire)
        ends = {"succeeded": worker.succeed, "failed": worker.fail, "retrying": worker.retry}
        claimed = worker.claim()
        if state in ends:
            ends[state](claimed)
    elif state == "deleted":
        job.delete()
    elif state in {"awaiting", "parent"}:
        child = job.then(send, 2)
        job = child if state == "awaiting" else job
    return job
