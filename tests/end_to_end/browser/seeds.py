"""Storages with data: the seeded year of a shop, and a small one."""

from __future__ import annotations

import threading
from datetime import timedelta
from types import SimpleNamespace

from markupsafe import Markup

from benchmarks.seed.shop import fire as shop_app
from benchmarks.seed.story import seed
from firelock import Firelock, JobContext, Limit, Retry, Settings, State, Unique, hookimpl
from firelock.storage import ClaimRequest, NewSession
from firelock.testing import eventually
from firelock_dashboard import JobPanel, Page
from tests.dashboard import flows

SEEDED = 2_000  # jobs
_QUICK = Retry.never()


class Lanes:
    """A plugin with its own page and panel."""

    @hookimpl
    def dashboard_pages(self):
        return [Page("lanes", "Lanes", lambda visit: Markup("<p>Nine lanes.</p>"))]

    @hookimpl
    def job_panels(self, job):
        return [JobPanel("Lane", lambda visit, job: f"Lane of <{job.queue}>")]


def shop(storage):
    """Return the shop's app with all of its tasks, on a storage or a storage URL."""
    fire = Firelock(storage, plugins=[Lanes()])
    for info in shop_app.tasks():
        fire.registry.register(info)
    return fire


def fill(storage, jobs=SEEDED):
    """Fill the storage with a year of the shop."""
    fire = shop(storage)
    fire.storage.migrate()
    for _ in seed(fire.storage, fire.tasks(), jobs):
        pass
    _hold_keys(fire)
    _flow(fire)
    fire.close()


def _flow(fire):
    """Add a nightly import as a flow, in which one load has failed, and an order that waits for a person."""
    batch = flows.new_batch(fire, "import of tuesday")
    days = flows.add(fire, batch, "shop.imports.list_days", queue="workflows")
    loads = [
        flows.add(fire, batch, f"shop.imports.{name}", parents=[days], queue="workflows")
        for name in ("load_orders", "load_customers", "load_stock")
        for _ in range(1 if name == "load_stock" else 12)
    ]
    checked = [
        flows.add(fire, batch, f"shop.imports.{name}", parents=loads, queue="workflows")
        for name in ("check", "summarise")
    ]
    flows.add(fire, batch, "shop.imports.publish", parents=checked, queue="workflows")
    (first,) = flows.claim(fire, queues=["workflows"])
    flows.end(fire, first)
    for number, job in enumerate(flows.claim(fire, 20, ["workflows"])):
        if number < 17:
            flows.end(fire, job, State.FAILED if number == 5 else State.SUCCEEDED)
    order = flows.add(fire, flows.new_batch(fire, "orders"), "shop.orders.approve", queue="workflows")
    (job,) = [job for job in flows.claim(fire, 100, ["workflows"]) if job.id == order]
    flows.remember(fire, job, "step", "charge", '{"charge": "ch_7", "amount": 300}')
    flows.remember(fire, job, "sleep", "cool-off", str(fire.storage.clock()))
    flows.remember(fire, job, "signal", "manager", None, is_done=False)
    due_at = fire.storage.clock() + 86_400_000_000
    flows.end(fire, job, State.AWAITING, waits_for="signal manager", gives_back=True, due_at=due_at)


def _hold_keys(fire):
    """Add jobs of three tenants that hold a limit's keys or wait for them, each with a unique key."""

    @fire.task(
        name="shop.reports.tenant_report",
        queue="reports",
        limits=[Limit("tenant:{tenant_id}", concurrent=2)],
        unique=Unique("tenant:{tenant_id}/{day}"),
    )
    def tenant_report(tenant_id: int, day: str) -> None: ...

    fire.limits.sync()
    for tenant_id in (7, 8, 9):
        for day in range(1, tenant_id - 4):
            tenant_report.enqueue(tenant_id, f"2026-11-{day:02}")
    now = fire.storage.clock()
    session = NewSession("of-limits", "limits", "web-2:400", "web-2", 400, now, 86_400, 10, "reports")
    fire.storage.begin_session(session)
    fire.storage.claim(ClaimRequest(["reports"], 5, session.id, now))
    fire.limits.pause("tenant:9", note="their mailbox is full", by="mia")


# ---- the small storage -----------------------------------------------------------------------------------


def small(storage):
    """Return an app and its tasks, without any stored job."""
    fire = Firelock(storage, settings=Settings(heartbeat=0.3, session_timeout=30))
    gate = threading.Event()  # `work` ends when it is set

    @fire.task(name="shop.orders.add", retry=_QUICK, tags=["order:{order}"])
    def add(order: int, price: float = 1.5) -> dict[str, float]:
        """Add an order up."""
        return {"order": order, "price": price}

    @fire.task(name="shop.orders.charge", queue="billing", retry=_QUICK)
    def charge(order: int) -> None:
        raise ValueError(f"order {order}: the bank said no")

    @fire.task(name="shop.mail.send", queue="mail", retry=_QUICK)
    def send(address: str) -> None:
        """Mail somebody."""

    @fire.task(name="shop.reports.work", queue="reports", retry=_QUICK)
    def work(job: JobContext, steps: int) -> int:
        job.log("begun")
        job.progress(1, steps, "step one")
        gate.wait(30)
        return steps

    tasks = SimpleNamespace(add=add, charge=charge, send=send, work=work, gate=gate)
    fire.recurring("nightly", "0 2 * * *", 7)(add)
    return fire, tasks


def stock(storage):
    """Store jobs of `small` in every state except processing.

    Three jobs succeeded and three failed, five wait in `mail`, two are scheduled, one waits for its parent,
    and one is deleted. There are also a paused queue, a recurring job from code and a recurring job created
    by hand.
    """
    fire, tasks = small(storage)
    fire.storage.migrate()
    ended = [*tasks.add.enqueue_many([(1,), (2,), (3,)]), *tasks.charge.enqueue_many([(1,), (2,), (3,)])]
    with fire.server(queues=["default", "billing"], workers=2):
        eventually(lambda: all(job.refresh().state in {State.SUCCEEDED, State.FAILED} for job in ended))
    tasks.send.enqueue_many([(f"{name}@example.com",) for name in ("ada", "ben", "eva", "max", "zoe")])
    for number in (1, 2):
        tasks.add.schedule(timedelta(hours=number), 10 + number)
    parent = tasks.work.schedule(timedelta(days=1), 4)
    parent.then(tasks.add, 99)
    tasks.add.enqueue(50).delete()
    fire.recurring.create("shop.orders.add", "hand-made", "@hourly", {"order": 3}, by="ada")
    fire.queues.pause("reports", note="the disk is full until Thursday", by="ada")
    fire.close()
