"""The present of a seed: what runs, waits, is due later, and what waits for a parent."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

from firelock.cli.seed_rhythm import DAY, HOUR, MINUTE
from firelock.clock import SECOND
from firelock.lifecycle import awaiting_reason, waiting_reason
from firelock.storage import Held
from firelock.values import ClaimedJob, Edge, NewJob, On, State

if TYPE_CHECKING:
    from firelock.cli.seed_looks import Look, Looks
    from firelock.cli.seed_notes import Notes
    from firelock.cli.seed_plan import Sizes
    from firelock.cli.seed_stage import Server, Stage

__all__ = ["Present"]

_AT_MOST = 500
_AT_ONCE = 25  # enqueued jobs that share an instant
_PAUSED, _NOTE = "webhooks", "partners move to new servers until Thursday; paused by ops"
# Which share of what is enqueued lies in which tasks' queues, and how old the oldest of it is.
_WAITING = (
    (0.44, ("webhooks.deliver", "webhooks.notify_partner"), 3 * HOUR),
    (0.38, ("mail.send_newsletter", "mail.send_receipt", "mail.send_shipped"), 25 * MINUTE),
    (0.09, ("media.resize_image", "media.make_thumbnail"), 4 * MINUTE),
    (0.05, ("catalog.reindex_product", "crm.sync_customer"), MINUTE),
    (0.03, ("imports.import_prices", "imports.geocode_addresses"), 6 * MINUTE),
    (0.01, ("reports.export_orders",), 8 * MINUTE),
)  # fmt: skip
_RUNNING = (
    "media.transcode_video", "imports.import_products", "reports.nightly_sales", "reports.export_orders",
    "reports.weekly_margin", "billing.reconcile_payouts", "media.transcode_video", "imports.import_prices",
    "billing.charge_card", "mail.send_newsletter", "catalog.reindex_product", "shipping.create_label",
)  # fmt: skip
_LATER = (
    "mail.remind_cart", "billing.remind_debtor", "billing.renew_subscription", "mail.send_newsletter",
    "reports.export_orders", "webhooks.post_to_chat",
)  # fmt: skip
_NEXT = ("mail.send_receipt", "webhooks.post_to_chat", "webhooks.notify_partner", "crm.sync_customer")
_ONS = (On.SUCCEEDED, On.SUCCEEDED, On.SUCCEEDED, On.FINISHED, On.FAILED)


class Present:
    """Writes what has not ended."""

    def __init__(self, stage: Stage, looks: Looks, sizes: Sizes, notes: Notes, random: Random) -> None:
        self._stage = stage
        self._looks = looks
        self._sizes = sizes
        self._notes = notes
        self._random = random
        self._parents: list[str] = []  # ids of jobs that have not ended

    # ---- running -----------------------------------------------------------------------------------------

    def run(self) -> int:
        """Each server has jobs in hand; return how many."""
        share = {"worker-1": 0.4, "web-1": 0.2}
        left = self._sizes.processing
        for server in self._stage.servers:
            count = min(left, round(share.get(server.session.host, 1.0) * self._sizes.processing))
            left -= count
            self._hold(server, count)
        return self._sizes.processing

    def _hold(self, server: Server, count: int) -> None:
        ago = 11 * MINUTE if server.is_stale else 7 * MINUTE
        for number in range(count):
            look = self._looks.by_name[f"shop.{_RUNNING[number % len(_RUNNING)]}"]
            longest = ago if look.takes_context or server.is_stale else 3 * SECOND
            at = self._stage.now - int(longest * (0.85 + 0.15 * self._random.random()))
            job = self._job(look, at)
            self._stage.insert([job], at)
            (claimed,) = self._stage.claim(1, server, at)
            started_at = claimed.claimed_at + int(self._random.random() * SECOND / 2)
            held = Held(claimed.id, claimed.fence, started_at)
            self._stage.storage.reconcile(server.session.id, [held])
            self._tell(claimed, look, started_at)
            self._parents.append(job.id)

    def _tell(self, job: ClaimedJob, look: Look, started_at: int) -> None:
        if look.takes_context:
            share = 0.15 + 0.75 * self._random.random()
            self._notes.add(job, look, started_at, self._stage.now, share=share)
            self._notes.flush(self._stage.storage)

    # ---- waiting -----------------------------------------------------------------------------------------

    def enqueue(self) -> int:
        """Jobs wait in several queues, two of them deep; return how many."""
        made, share = 0, 0.0
        for part, tasks, oldest in _WAITING:
            share += part
            count = round(share * self._sizes.enqueued) - made
            self._line_up(count, tasks, oldest)
            made += count
        return made

    def _line_up(self, count: int, tasks: Sequence[str], oldest: int) -> None:
        for first in range(0, count, _AT_ONCE):
            at = self._stage.now - int(oldest * (1 - first / count)) - SECOND // 5
            jobs = [self._job(self._one_of(tasks), at) for _ in range(min(_AT_ONCE, count - first))]
            self._stage.insert(jobs, at)
            self._parents.append(jobs[0].id)

    def schedule(self) -> int:
        """Jobs are due within the next days; return how many."""

        def scheduled() -> NewJob:
            job = self._job(self._one_of(_LATER), self._stage.now - int(self._random.random() * 2 * DAY))
            job.state = State.SCHEDULED
            job.due_at = job.nominal_at = (
                self._stage.now + int(self._random.random() ** 2 * 6 * DAY) + 5 * MINUTE
            )
            return job

        return self._insert_all(self._sizes.scheduled, scheduled)

    def wait(self, failed: Sequence[str]) -> int:
        """Jobs wait for parents that have not ended, or have failed; return how many."""
        parents = [*self._parents, *failed[-max(1, self._sizes.awaiting // 6) :]]
        hopeless = set(failed)

        def awaiting() -> NewJob:
            parent = self._random.choice(parents)
            job = self._job(self._one_of(_NEXT), self._stage.now - int(self._random.random() * 2 * MINUTE))
            job.id = self._stage.storage.new_id(parent)
            is_failed = parent in hopeless
            on = On.SUCCEEDED if is_failed else self._random.choice(_ONS)
            job.state, job.parents = State.AWAITING, (Edge(parent, on),)
            job.reason = waiting_reason(on, State.FAILED) if is_failed else awaiting_reason(on, parent)
            return job

        return self._insert_all(self._sizes.awaiting, awaiting)

    def _insert_all(self, count: int, make: Callable[[], NewJob]) -> int:
        for first in range(0, count, _AT_MOST):
            self._stage.insert([make() for _ in range(min(_AT_MOST, count - first))], self._stage.now)
        return count

    def pause(self) -> None:
        """One queue is paused, and says why."""
        value = json.dumps({"paused": True, "note": _NOTE})
        self._stage.storage.put_record("queue", _PAUSED, value)

    # ---- jobs --------------------------------------------------------------------------------------------

    def _one_of(self, tasks: Sequence[str]) -> Look:
        return self._looks.by_name[f"shop.{self._random.choice(tasks)}"]

    def _job(self, look: Look, created_at: int) -> NewJob:
        drawn = look.draw(self._random, created_at)
        return NewJob(
            self._stage.storage.new_id(), look.name, drawn.arguments, "json", look.queue, look.priority,
            State.ENQUEUED, created_at, tags=drawn.tags,
        )  # fmt: skip
