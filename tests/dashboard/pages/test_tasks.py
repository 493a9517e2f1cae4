"""The pages of tasks and the form that runs one."""

from __future__ import annotations

import enum
import html
import re
from contextlib import closing

import pytest

from firelock import State
from firelock.storage import DURATION_BUCKETS, ClaimRequest, NewSession, Renewal, Rollup
from firelock_dashboard import Dashboard
from firelock_dashboard.pages import tasks
from firelock_dashboard.security.redaction import MASK
from tests.dashboard import flows
from tests.dashboard.browser import Browser


class Size(enum.Enum):
    SMALL = 1
    LARGE = 2


@pytest.fixture
def order(fire):
    @fire.task(name="shop.order", queue="orders", tags=["order:{number}"], keep=90 * 86_400)
    def order(
        number: int, size: Size = Size.SMALL, gift: bool = False, notes: list[str] | None = None
    ) -> None:
        """Take an order and pack it.

        More about it.
        """

    return order


def test_empty_task_list_shows_how_to_declare_a_task(client):
    """If no tasks are known, the page shows how to declare one."""
    assert "@fire.task" in client.get("/tasks").text


def test_task_list_describes_each_task(client, order):
    """Each row shows the task's name, its queue, the beginning of its docstring, and a button to run it."""
    page = client.get("/tasks").text

    assert "Take an order and pack it." in page
    assert 'href="/queues/orders"' in page
    assert "/tasks/run?name=shop.order" in page
    assert (
        "shop.order" not in client.get("/tasks?q=nothing").text.split("<main")[1].split('data-live="rows"')[1]
    )


def test_task_list_shows_running_jobs(client, fire, order):
    """Although no run has ended, the row shows the number of running jobs and the time of the last run."""
    order.enqueue_many([(1,), (2,), (3,)])
    now = fire.storage.clock()
    fire.storage.begin_session(NewSession("s", "server", "worker-1", "host", 1, now, 30.0, 10, "*"))
    fire.storage.claim(ClaimRequest(["orders"], 2, "s", now))

    row = re.search(r'<tr id="task-shop.order">.*?</tr>', client.get("/tasks").text, re.DOTALL)[0]
    cells = [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)]

    assert "2" == cells[2]
    assert 'href="/jobs?state=processing&amp;task=shop.order"' in row
    assert cells[7] in {"now", "1 s ago"}


def test_task_list_marks_incomplete_running_counts(client, fire, order, monkeypatch):
    """A number that might be too low is followed by a plus sign.

    A task without any counted job may still have running jobs, so its row does not show zero.
    """
    monkeypatch.setattr(tasks, "_RUNNING", 2)

    @fire.task(name="shop.pack", queue="packing")
    def pack() -> None: ...

    order.enqueue_many([(1,), (2,), (3,)])
    now = fire.storage.clock()
    fire.storage.begin_session(NewSession("s", "server", "worker-1", "host", 1, now, 30.0, 10, "*"))
    fire.storage.claim(ClaimRequest(["orders"], 2, "s", now))
    whole = client.part("/tasks", "rows").text
    fire.storage.claim(ClaimRequest(["orders"], 1, "s", now))
    cut = client.part("/tasks", "rows").text

    assert ["0", "2"] == running(whole)
    assert ["–", "2+"] == sorted(running(cut), reverse=True)
    assert "More are running" not in whole
    assert "Running only counts the newest 2 running jobs. More are running." in cut


def running(page):
    """Return the displayed numbers of running jobs, sorted."""
    cells = re.findall(r'data-label="Running">(.*?)</td>', page, re.DOTALL)
    return sorted(re.sub(r"<[^>]+>", "", cell).strip() for cell in cells)


def test_task_list_counts_deleted_jobs_that_still_run(client, fire, order):
    """Deleted jobs that still run are counted separately and have their own link.

    Deleted jobs that never ran are not counted.
    """
    order.enqueue_many([(1,), (2,), (3,)])
    now = fire.storage.clock()
    fire.storage.begin_session(NewSession("s", "server", "worker-1", "host", 1, now, 30.0, 10, "*"))
    claimed = fire.storage.claim(ClaimRequest(["orders"], 2, "s", now)).jobs
    fire.storage.renew([Renewal("s", 2)])
    fire.jobs.delete([job.id for job in claimed] + [order.enqueue(4).id])

    row = re.search(r'<tr id="task-shop.order">.*?</tr>', client.get("/tasks").text, re.DOTALL)[0]
    cells = [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)]

    assert "0 + 2 deleted" == cells[2]
    assert 'href="/jobs?state=deleted&amp;task=shop.order"' in row
    assert cells[7] in {"now", "1 s ago"}


def test_task_page_shows_signature_tags_and_jobs(client, order):
    """The page shows the task's signature, its tags and its newest jobs."""
    job = order.enqueue(7)

    page = client.get("/tasks/view?name=shop.order").text

    assert "order:{number}" in page
    assert f"/jobs/{job.id}" in page
    assert "number: int" in page
    assert "90 d after success" in page


def test_unknown_task_is_not_found(client):
    """If a task is not registered and no job names it, requests for its page and its form get a 404."""
    answer = client.get("/tasks/view?name=nobody.knows")

    assert 404 == answer.status
    assert "nobody.knows" in answer.text
    assert 404 == client.get("/tasks/run?name=nobody.knows").status
    assert 404 == client.post("/tasks/run", {"name": "nobody.knows"}).status


def test_unregistered_task_shows_its_jobs_and_a_warning(client, fire, order):
    """The jobs of a task that is not registered anywhere are still listed."""
    order.enqueue(1)
    fire.registry._by_name.clear()  # noqa: SLF001 - as in a process without the code

    page = client.get("/tasks/view?name=shop.order").text

    assert "Neither a server nor this process knows this task" in page


def test_form_has_a_field_for_each_parameter(client, order):
    """Enums and booleans are choices, structures are JSON, and the default values are filled in."""
    page = client.get("/tasks/run?name=shop.order").text

    assert 'name="args.number"' in page
    assert "<option>LARGE</option>" in page
    assert '<option value="true"' in page
    assert '<textarea id="args.notes"' in page


def test_form_enqueues_a_job(client, fire, order):
    """The job has the arguments and options that were typed into the form, and an audit entry is added."""
    answer = client.post(
        "/tasks/run",
        {"name": "shop.order", "args.number": "7", "args.size": "LARGE", "args.gift": "true",
         "args.notes": '["a"]', "queue": "rush", "priority": "5", "delay": "15m"},
    )  # fmt: skip

    (job,) = fire.jobs.find(task="shop.order")
    assert 303 == answer.status
    assert f"/jobs/{job.id}" == answer.location
    assert ("rush", 5, State.SCHEDULED) == (job.queue, job.priority, job.state)
    assert '"gift":true' in job.record().arguments.replace(" ", "")
    assert "task.run" == fire.audit.list().entries[0].action


def test_resource_is_not_a_form_field(client, fire):
    """The worker provides the resource, so the form does not contain a field for it.

    A forged field is refused.
    """

    @fire.resource
    def pool():
        yield "pool"

    @fire.task(name="shop.count")
    def count(table: str, pool: str = pool) -> int: ...

    form = client.get("/tasks/run?name=shop.count").text
    refused = client.post("/tasks/run", {"name": "shop.count", "args.table": "t", "args.pool": "mine"})
    made = client.post("/tasks/run", {"name": "shop.count", "args.table": "t"})

    assert 'name="args.table"' in form
    assert "args.pool" not in form
    assert 303 != refused.status
    assert 303 == made.status
    assert ['{"table":"t"}'] == [job.record().arguments for job in fire.jobs.find(task="shop.count")]


def test_job_is_run_again_with_changes(client, fire, order):
    """The form contains the arguments and options of the job. The new job links to that job."""
    task = order.using(queue="rush", priority=5, meta={"tenant": "acme"})
    original = task.enqueue(7, Size.LARGE, gift=True, notes=["ü"])
    leads = f"/tasks/run?name=shop.order&amp;from={original.id}"
    offered = client.get(f"/jobs/{original.id}").text

    form = client.get(f"/tasks/run?name=shop.order&from={original.id}").text
    sent = dict(re.findall(r'<input[^>]* name="([^"]+)"[^>]* value="([^"]*)"', form))
    client.post("/tasks/run", {
        **{name: value for name, value in sent.items() if name in {"name", "from", "queue", "priority"}},
        "args.number": "8", "args.size": "LARGE", "args.gift": "true", "args.notes": '["ü"]',
    })  # fmt: skip

    made = next(job for job in fire.jobs.find() if job != original)
    page = client.get(f"/jobs/{made.id}").text
    assert leads in offered
    assert ("7", "rush", "5") == (sent["args.number"], sent["queue"], sent["priority"])
    assert "<option selected>LARGE</option>" in form
    assert '["ü"]' in html.unescape(form)
    expected = '{"number":8,"size":2,"gift":true,"notes":["ü"]}'
    assert (expected, "rush", 5) == (made.record().arguments, made.queue, made.priority)
    assert {"tenant": "acme"} == made.meta
    assert f"run again with changes from {original.id} by local" == made.reason
    assert f'href="/jobs/{original.id}"' in page
    assert original.id == fire.audit.list().entries[0].detail["from"]
    assert State.ENQUEUED is original.refresh().state


def test_argument_from_another_job_is_shown_in_the_form(client, fire):
    """The form contains the other job's result if it exists.

    Until then, the form names the job that produces the result.
    """

    @fire.task(name="shop.count")
    def count() -> int:
        return 7

    @fire.task(name="shop.report")
    def report(total: int, day: str) -> None: ...

    with fire.batch("day") as batch:
        source = batch.add(count)
        taker = batch.add(report, source.output, "monday")
    address = f"/tasks/run?name=shop.report&from={taker.id}"
    page, before = client.get(f"/jobs/{taker.id}").text, client.get(address).text
    flows.end(fire, flows.claim(fire)[0], result="7")
    after = client.get(address).text

    assert f"&lt;output of {source.id}&gt;" in page
    assert "None" not in page
    assert ("The parameter takes the result of a job" in before, 'value="7"' in before) == (True, False)
    assert f'href="/jobs/{source.id}"' in before
    assert ("The parameter takes the result of a job" in after, 'value="7"' in after) == (False, True)
    assert f"<output of {source.id}>" == client.get(f"/api/jobs/{taker.id}").json()["arguments"]["total"]


def test_secret_argument_must_be_entered_again(client, fire):
    """A secret argument is not in the form, and the form requires it to be entered again."""

    @fire.task(name="shop.login")
    def login(user: str, password: str) -> None: ...

    job = login.enqueue("ada", "hunter2")

    form = client.get(f"/tasks/run?name=shop.login&from={job.id}").text

    assert 'value="ada"' in form
    assert "hunter2" not in form
    assert "Enter it again" in form
    assert "required" in re.search(r'<input[^>]* name="args.password"[^>]*>', form)[0]


@pytest.mark.parametrize("value", [MASK, f'{{"key": "{MASK}"}}'])
def test_mask_is_refused_as_a_value(client, fire, value):
    """A typed value contains the mask if a visitor has copied the arguments from a job's page."""

    @fire.task(name="shop.login")
    def login(note: str) -> None: ...

    form = {"name": "shop.login", "args.note": value}

    answers = [
        client.post("/tasks/run", form),
        client.post("/api/tasks/run", {"args.note": value, "task": "shop.login"}),
    ]

    assert [400, 400] == [answer.status for answer in answers]
    assert "note" in answers[0].text
    assert 0 == fire.jobs.counts().enqueued


@pytest.mark.parametrize(("original", "status"), [("gone", 404), ("of another task", 400)])
def test_run_again_with_a_job_of_another_task_is_refused(client, fire, order, original, status):
    """The response is an error if the job does not exist or belongs to another task."""

    @fire.task(name="shop.other")
    def other() -> None: ...

    job_id = "gone" if original == "gone" else other.enqueue().id

    assert status == client.get(f"/tasks/run?name=shop.order&from={job_id}").status
    sent = {"name": "shop.order", "args.number": "1", "from": job_id}
    assert status == client.post("/tasks/run", sent).status


def test_run_again_requires_view_args(fire, order):
    """The page does not offer to run the job again, and the form is refused."""
    job = order.enqueue(7)

    with (
        closing(Dashboard(fire, auth=lambda request: ["read", "run_task"])) as dashboard,
        closing(Browser(dashboard)) as client,
    ):
        page = client.get(f"/jobs/{job.id}").text
        answer = client.get(f"/tasks/run?name=shop.order&from={job.id}")

    assert "Run with changes" not in page
    assert 403 == answer.status


def test_priority_zero_is_kept(client, fire):
    """Only an empty field selects the default priority of the task."""

    @fire.task(name="shop.urgent", priority=9)
    def urgent() -> None: ...

    for given in ("0", ""):
        client.post("/tasks/run", {"name": "shop.urgent", "priority": given})

    assert [0, 9] == [job.priority for job in fire.jobs.find(oldest_first=True)]


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ({"args.number": "seven"}, "number"),
        ({}, "number"),
        ({"args.number": "1", "args.size": "HUGE"}, "size"),
        ({"args.number": "1", "args.notes": "[1"}, "notes"),
        ({"args.number": "1", "delay": "soon"}, "delay"),
        ({"args.number": "1", "priority": "101"}, "priority"),
        ({"args.number": "1", "queue": "No Queue"}, "No Queue"),
    ],
)
def test_invalid_field_is_named_and_the_form_is_kept(client, fire, order, form, named):
    """No job is enqueued. The form is shown again with the typed values and an error that names the field."""
    answer = client.post("/tasks/run", {"name": "shop.order", **form})

    assert 400 == answer.status
    assert named in answer.text.split('role="alert"')[1]
    assert not list(fire.jobs.find(task="shop.order"))
    if "args.number" in form:
        assert f'value="{form["args.number"]}"' in answer.text


def test_newest_jobs_of_a_task_show_their_arguments(client, fire, order):
    """The jobs are listed by creation time, which is also shown."""
    order.enqueue(7)
    (job,) = flows.claim(fire)
    flows.end(fire, job, State.FAILED)

    page = client.get("/tasks/view?name=shop.order").text
    row = re.search(rf'<li id="new-{job.id}">.*?</li>', page, re.DOTALL)[0]

    assert "number=7" in row
    assert "by creation time" in page
    assert page.count(client.app.fire.jobs.get(job.id).created_at.strftime("%Y-%m-%dT%H:%M:%S")) >= 1
    assert "reported again after a change" not in page, "no server has reported it"


@pytest.mark.parametrize(("failed", "is_marked"), [(1, False), (2, True)])
def test_failure_rate_is_highlighted_consistently(client, fire, order, failed, is_marked):
    """No table highlights one failure in twelve attempts, and all tables highlight two failures."""
    minute = fire.client.clock.now() // 60_000_000 * 60_000_000
    histogram = (*([0] * len(DURATION_BUCKETS)), 12)
    fire.storage.record_metrics(
        [
            Rollup(minute, "shop.order", "orders", "succeeded", 12 - failed, 0, histogram),
            Rollup(minute, "shop.order", "orders", "failed", failed, 0, histogram),
        ]
    )
    order.enqueue(1)

    overview, tasks, task = (client.get(one).text for one in ("/", "/tasks", "/tasks/view?name=shop.order"))

    assert is_marked == ('class="number bad"' in overview)
    assert is_marked == ('class="state-failed ink"' in tasks)
    assert is_marked == ('class="tile is-bad"' in task)
