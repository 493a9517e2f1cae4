"""The recurring jobs of a seed: 30 definitions with their last runs, some of which have problems."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import attrs

from benchmarks.seed.year import DAY, DAYS, HOUR, MINUTE
from firelock.model.clock import from_micros, micros
from firelock.model.ids import derived_id
from firelock.model.job import NewJob
from firelock.model.state import State
from firelock.schedules.cron import Cron, schedule_to_json
from firelock.schedules.recurring_job import RecurringRecord, get_recurring, put_recurring

if TYPE_CHECKING:
    from benchmarks.seed.templates import JobTemplate, JobTemplates
    from firelock.storage import Storage

__all__ = ["Definitions", "Run"]

_ISTANBUL, _NEW_YORK, _BERLIN = "Europe/Istanbul", "America/New_York", "Europe/Berlin"
# id, task, cron, zone
_TABLE = (
    ("expire-carts", "carts.expire_carts", "*/15 * * * *", "UTC"),
    ("track-dhl", "shipping.track_parcels", "*/10 * * * *", _BERLIN),
    ("track-ptt", "shipping.track_parcels", "5-59/20 * * * *", _ISTANBUL),
    ("track-ups", "shipping.track_parcels", "0 * * * *", _NEW_YORK),
    ("stock-ankara", "imports.import_stock", "*/5 * * * *", _ISTANBUL),
    ("stock-berlin", "imports.import_stock", "2-59/10 * * * *", _BERLIN),
    ("stock-ohio", "imports.import_stock", "*/30 * * * *", _NEW_YORK),
    ("sales-eu", "reports.nightly_sales", "0 2 * * *", _BERLIN),
    ("sales-tr", "reports.nightly_sales", "0 2 * * *", _ISTANBUL),
    ("sales-us", "reports.nightly_sales", "30 1 * * *", _NEW_YORK),
    ("margin-eu", "reports.weekly_margin", "0 6 * * 1", _BERLIN),
    ("margin-tr", "reports.weekly_margin", "0 6 * * 1", _ISTANBUL),
    ("levels-morning", "reports.stock_levels", "0 7 * * 1-5", _ISTANBUL),
    ("levels-evening", "reports.stock_levels", "0 19 * * *", "UTC"),
    ("export-month", "reports.export_orders", "15 3 1 * *", "UTC"),
    ("export-week", "reports.export_orders", "45 3 * * 0", _NEW_YORK),
    ("payouts-card", "billing.reconcile_payouts", "0 5 * * *", "UTC"),
    ("payouts-bank", "billing.reconcile_payouts", "30 5 * * 1-5", _BERLIN),
    ("remind-debtors", "billing.remind_debtor", "0 9 * * 2,4", _BERLIN),
    ("prices-acme", "imports.import_prices", "10 4 * * *", "UTC"),
    ("prices-bosphorus", "imports.import_prices", "20 4 * * *", _ISTANBUL),
    ("prices-globex", "imports.import_prices", "0 */6 * * *", _NEW_YORK),
    ("catalogue-acme", "imports.import_products", "30 22 * * *", "UTC"),
    ("catalogue-umbra", "imports.import_products", "0 23 * * 6", _NEW_YORK),
    ("market-megashop", "webhooks.sync_marketplace", "*/20 * * * *", "UTC"),
    ("market-pazar", "webhooks.sync_marketplace", "7-59/15 * * * *", _ISTANBUL),
    ("merge-duplicates", "crm.merge_duplicates", "0 4 * * 0", "UTC"),
    ("geocode-new", "imports.geocode_addresses", "25 * * * *", "UTC"),
    ("black-week-mail", "mail.send_newsletter", "0 10 * * *", _ISTANBUL),
    ("chat-summary", "webhooks.post_to_chat", "0 18 * * 1-5", _NEW_YORK),
)  # fmt: skip
_PAUSED = "black-week-mail"
_ERROR = "ArgumentError: parameter 'path' of shop.imports.import_products is missing in the stored arguments"
_DROPPED = 37
_FAILING_SHARE = 0.06
_YOUNGEST = 30 * 1_000_000  # a run is at least this old


@attrs.frozen
class Run:
    """A past run of a definition, for one due time."""

    record: RecurringRecord
    template: JobTemplate
    result: str
    due_at: int
    fails: bool

    def job(self, at: int) -> NewJob:
        """Return the job as a server would have created it; its id depends on definition and due time."""
        record = self.record
        return NewJob(
            self.id, record.task, record.arguments, record.serializer, record.queue, record.priority,
            State.ENQUEUED, at, None, self.due_at,
            f"recurring {record.id}, due {from_micros(self.due_at).isoformat()}", record.tags,
            recurring_id=record.id,
        )  # fmt: skip

    @property
    def id(self) -> str:
        """The job's id."""
        return derived_id("recurring", self.record.id, str(self.record.created_at), str(self.due_at))


class Definitions:
    """The definitions and their past runs."""

    def __init__(self, templates: JobTemplates, now: int, runs: int, random: Random) -> None:
        self._now = now
        self._random = random
        self.runs: list[Run] = []
        self._records = [
            self._record(templates.by_name[f"shop.{task}"], recurring_id, Cron(cron, tz=zone), runs)
            for recurring_id, task, cron, zone in _TABLE
        ]

    def __len__(self) -> int:
        """Return the number of definitions."""
        return len(self._records)

    def _record(self, template: JobTemplate, recurring_id: str, cron: Cron, runs: int) -> RecurringRecord:
        created_at = self._now - DAYS * DAY + int(self._random.random() * 60 * DAY)
        drawn = template.draw(self._random, self._now)
        following = cron.next_after(from_micros(self._now))
        record = RecurringRecord(
            recurring_id, template.name, drawn.arguments, "json", schedule_to_json(cron), template.queue,
            template.priority, drawn.tags, created_at=created_at, updated_at=created_at,
            next_at=None if following is None else micros(following),
        )  # fmt: skip
        for due_at in self._due_times(recurring_id, cron, created_at, runs):
            fails = self._random.random() < _FAILING_SHARE
            self.runs.append(Run(record, template, drawn.result, due_at, fails))
            record = attrs.evolve(record, last_at=due_at, last_job_id=self.runs[-1].id)
        return self._marked(record)

    def _due_times(self, recurring_id: str, cron: Cron, created_at: int, runs: int) -> list[int]:
        """Return the last due times at which it ran, oldest first."""
        until = self._now - _YOUNGEST - (9 * DAY if recurring_id == _PAUSED else 0)
        end, duration = from_micros(until), timedelta(hours=1)
        while cron.count(end - duration, end) < runs and micros(end - duration) > created_at:
            duration *= 2
        start = max(end - duration, from_micros(created_at))
        return [micros(due_at) for due_at in cron.upcoming(start, cron.count(start, end))][-runs:]

    def _marked(self, record: RecurringRecord) -> RecurringRecord:
        match record.id:
            case "black-week-mail":
                return attrs.evolve(record, is_paused=True, updated_at=self._now - 9 * DAY)
            case "catalogue-umbra":
                return attrs.evolve(record, error=_ERROR, next_at=self._now + MINUTE)
            case "stock-ohio":
                return attrs.evolve(record, dropped=_DROPPED)
            case "track-ups":
                return attrs.evolve(record, origin="code", is_gone=True)
            case "prices-globex":
                return attrs.evolve(record, origin="operator", updated_at=self._now - 20 * HOUR)
        return record

    def write(self, storage: Storage) -> None:
        """Store the definitions, and replace those of an earlier seed."""
        for record in self._records:
            stored = get_recurring(storage, record.id)
            version = stored.version if stored else 0
            put_recurring(storage, attrs.evolve(record, version=version), keep_progress=False)
