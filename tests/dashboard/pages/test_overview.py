"""The overview: instructions for a new storage, then the current state; its regions and charts."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from firelock import Limit, Retry, Turns
from firelock.model.clock import SECOND
from firelock.storage import DURATION_BUCKETS, ClaimRequest, NewSession, Renewal, Rollup, State
from firelock_dashboard.pages.charts import Chart, Line, chart_of_samples, round_up, spark
from firelock_dashboard.stats.live import Sample
from firelock_dashboard.stats.rollups import MINUTE
from tests.core import fakes
from tests.dashboard.flows import claim, end
from tests.dashboard.worker import Worker

PARTS = ("health", "tiles", "figures", "places", "runs", "nav")


def send(n: int) -> None:
    """A task's function."""


def fail(n: int) -> None:
    """A task's function."""


@pytest.fixture
def task(fire):
    return fire.task(name="shop.send", queue="mail")(send)


def minutes_ago(fire, minutes):
    return (fire.client.clock.now() // MINUTE - minutes) * MINUTE


def ended(fire, minutes=1, *, task="shop.send", queue="mail", outcome="succeeded", count=4, seconds=0.05):
    """Store attempts that ended some minutes ago."""
    histogram = [0] * (len(DURATION_BUCKETS) + 1)
    histogram[sum(bound < seconds for bound in DURATION_BUCKETS)] = count
    at = minutes_ago(fire, minutes)
    fire.storage.record_metrics(
        [Rollup(at, task, queue, outcome, count, int(count * seconds * SECOND), tuple(histogram))]
    )


def serve(fire, queues="*", workers=10):
    """Begin a server's session."""
    session = NewSession("s", "server", "worker-1", "host", 1, fire.client.clock.now(), 30.0, workers, queues)
    fire.storage.begin_session(session)
    fire.storage.renew([Renewal("s", 3)])


# ---- the page ----------------------------------------------------------------------------------------------


def test_empty_storage_shows_how_to_enqueue(client):
    """If no job exists, the page shows the code that enqueues a job and the command that runs it."""
    page = client.get("/")

    assert 200 == page.status
    assert "@fire.task" in page.text
    assert "firelock server app:fire" in page.text
    assert 2 == page.text.count("data-copy-from")
    assert "tile-processing" not in page.text


def test_instructions_page_reports_the_first_job(client, task):
    """When the first job is enqueued, a page that shows the instructions reports it."""
    before = client.part("/", "first").text
    task.enqueue(1)
    client.app.invalidate()

    assert ("", True) == (before, "Your first job is here." in client.part("/", "first").text)


def test_overview_shows_counts_queues_tasks_and_failures(client, fire, task):
    """The tiles and tables show the waiting, ended and failed jobs and link to them."""
    task.enqueue_many([(n,) for n in range(12)])
    serve(fire)
    ended(fire, count=30)
    ended(fire, outcome="failed", count=10, seconds=2)

    text = client.get("/").text

    assert tile(text, "enqueued").startswith("12")
    assert tile(text, "processing") == "0 of 10"
    assert (tile(text, "succeeded"), tile(text, "failed")) == ("30", "10")
    assert 'id="overview-queue-mail"' in text
    assert 'id="overview-task-shop.send"' in text
    assert 'href="/tasks/view?name=shop.send"' in text
    assert "25 %" in text[text.index('id="overview-task-shop.send"') :]


def test_jobs_beyond_the_number_of_workers_are_shown_without_a_total(client, fire, task):
    """Jobs that were claimed ahead, or by a server that is now lost, have no worker.

    "2 of 1" would look like an error.
    """
    task.enqueue_many([(1,), (2,)])
    serve(fire, workers=1)
    fire.storage.claim(ClaimRequest(["mail"], 2, "s", fire.client.clock.now()))

    page = client.get("/").text

    assert "2" == tile(page, "processing")
    assert (
        "1 slot, 1 more claimed"
        in page[page.index('id="tile-processing"') : page.index('id="tile-enqueued"')]
    )


def test_deleted_jobs_that_still_run_are_counted_with_workers(client, fire, task):
    """The number of such jobs is shown next to the number of processing jobs."""
    task.enqueue_many([(1,), (2,), (3,)])
    serve(fire)
    claimed = fire.storage.claim(ClaimRequest(["mail"], 3, "s", fire.client.clock.now())).jobs
    fire.storage.renew([Renewal("s", 3)])
    fire.jobs.delete([claimed[0].id])

    text = client.get("/").text
    assert "2 + 1 of 10" == tile(text, "processing")
    assert "1 server · 1 deleted job" in text
    assert "1 deleted job is still running: send." in text
    assert f'href="/jobs/{claimed[0].id}"' in text

    fire.jobs.delete([claimed[1].id])
    client.app.invalidate()
    text = client.get("/").text
    assert "1 server · 2 deleted jobs" in text
    assert "2 deleted jobs are still running." in text
    assert 'class="button small" href="/servers"' in text


def tile(text, name):
    found = re.search(rf'id="tile-{name}".*?class="value">(.*?)</span>', text, re.DOTALL)
    return re.sub(r"<[^>]+>", "", found[1])


@pytest.mark.parametrize("part", PARTS)
def test_regions_are_requested_separately(client, task, part):
    """The response contains only the requested region, and only if it has changed.

    An unknown region causes a 404.
    """
    task.enqueue(1)
    client.get("/")

    answer = client.part("/", part)

    assert (200, 404) == (answer.status, client.part("/", "nothing").status)
    assert "<html" not in answer.text
    assert answer.header("etag")


def test_regions_requested_together_show_one_reading(client, fire, task):
    """All requested regions are in one response, so the numbers in the navigation, tiles and tables agree."""
    task.enqueue(1)
    client.get("/")
    task.enqueue_many([(n,) for n in range(2, 8)])

    answer = client.part("/", "nav,tiles,places").json()
    waiting = tile(answer["tiles"], "enqueued")
    nav = re.search(r"state=enqueued.*?class=\"number\">(.*?)<", answer["nav"], re.DOTALL)[1]
    row = re.search(r'overview-queue-mail.*?data-label="Enqueued"><span>(.*?)<', answer["places"], re.DOTALL)[
        1
    ]

    assert ["nav", "tiles", "places"] == list(answer)
    assert nav == waiting == row
    assert 404 == client.part("/", "tiles,nothing").status


def test_request_after_a_change_gets_a_newer_reading(client, dashboard, task):
    """A page that requests data because of a change gets a reading that is newer than the change."""
    task.enqueue(1)
    client.get("/")
    dashboard.live.read()
    task.enqueue_many([(n,) for n in range(2, 8)])

    dashboard.live.read()

    assert "7" == tile(client.part("/", "tiles").text, "enqueued")


@pytest.mark.parametrize("query", ["span=2h", "kind=pie", "span=1h&span=24h", "span=%00"])
def test_invalid_chart_is_refused(client, query):
    """The error names the field and the valid values; scripts get it as JSON."""
    page, script = client.get(f"/?{query}"), client.get(f"/history.json?{query}")

    assert (400, 400) == (page.status, script.status)
    assert query.partition("=")[0] in page.text
    assert script.json()["message"]


@pytest.mark.parametrize("span", ["live", "1h", "24h", "7d", "30d"])
def test_every_chart_is_drawn_without_a_script(client, fire, task, span):
    """For every period and kind, a chart has a drawing, a table in a disclosure element, and a caption."""
    task.enqueue(1)
    ended(fire)

    for kind in ("throughput", "latency", "depth"):
        text = client.get(f"/?span={span}&kind={kind}").text

        assert '<svg viewBox="0 0 1000 200"' in text
        assert '<details class="chart-figures">' in text
        assert re.search(rf'data-from="[^"]*kind={kind}', text)


def test_chart_table_rows_link_to_the_jobs_of_their_bucket(client, fire, task):
    """Each row of the table links to the list of the jobs in its bucket."""
    task.enqueue(1)
    ended(fire)

    link = re.search(r"/jobs\?since=[^&]+Z&amp;until=[^&\"]+Z", client.part("/", "figures").text)

    assert link


# ---- problems ----------------------------------------------------------------------------------------------


def test_waiting_jobs_without_a_server_have_a_banner(client, task):
    """The banner contains the number of waiting jobs and a link to the servers."""
    task.enqueue_many([(n,) for n in range(3)])

    text = client.part("/", "health").text

    assert "3 jobs are enqueued, but no server is alive." in text
    assert 'href="/servers"' in text


def test_paused_queue_is_resumed_from_its_banner(client, fire, task):
    """The banner's form works without a script."""
    task.enqueue_many([(n,) for n in range(120)])
    serve(fire)
    fire.queues.pause("mail", note="until 15:00")

    text = client.part("/", "health").text

    assert "Queue mail is paused: until 15:00; 120 jobs are enqueued." in text
    assert "until 15:00" in text
    assert 303 == client.post("/queues/resume", {"queue": "mail", "back": "/"}).status
    assert "mail is paused" not in client.part("/", "health").text


def test_paused_limit_with_many_jobs_has_a_banner(client, fire):
    """The banner contains the number of waiting jobs, and its button leads to the limits."""
    task = fire.task(name="shop.limited", limits=[Limit("tenant:{n}", concurrent=4)])(send)
    task.enqueue_many([(7,) for _ in range(120)])
    serve(fire)
    fire.limits.pause("tenant", "until 15:00")

    text = client.part("/", "health").text

    assert "Limit tenant is paused: until 15:00; 120 jobs are waiting." in text
    assert 'href="/limits?prefix=tenant' in text


def never_charges(n: int) -> None:
    raise OSError("the provider is down")


def test_many_failed_jobs_keep_their_banner_for_hours(client, fire):
    """Because no more jobs fail, only the number of failed jobs shows the problem.

    Muting the cause removes the banner.
    """
    broken = fire.task(name="shop.fail", retry=Retry.never())(never_charges)
    broken.enqueue_many([(n,) for n in range(100)])
    fakes.Worker(fire).run()
    client.app.invalidate()
    failed = client.part("/", "health").text
    fingerprint = fire.storage.failure_groups(1)[0].fingerprint

    client.act("/failures/mute", {"fingerprint": fingerprint, "for": "24h"})
    muted = client.part("/", "health").text

    assert "100 jobs have failed, 100 of them of shop.fail. Newest cause: OSError." in failed
    assert 'href="/failures?task=shop.fail"' in failed
    assert "have failed" not in muted


def test_jobs_that_wait_for_a_failed_parent_link_to_it(client, fire):
    """The page of the parent offers to requeue the parent, and lists the jobs that wait for it."""

    @fire.task(name="shop.load", retry=Retry.never())
    def load() -> None:
        raise ValueError

    parent = load.enqueue()
    parent.then(load)
    fakes.Worker(fire).run()
    serve(fire)

    text = client.part("/", "health").text

    assert "load cannot start: load has failed." in text
    assert f'href="/jobs/{parent.id}"' in text


def test_members_that_cannot_start_link_to_their_batch(client, fire):
    """The banner names the batch. If there are several such members, it shows their number."""

    @fire.task(name="shop.load", retry=Retry.never())
    def load() -> None:
        raise ValueError

    @fire.task(name="shop.publish")
    def publish() -> None: ...

    with fire.batch("import of November") as batch:
        parent = batch.add(load)
        batch.add(publish.using(after=parent))
    fakes.Worker(fire).run()
    serve(fire)
    one = client.part("/", "health").text
    parent.then(publish)
    client.app.invalidate()
    two = client.part("/", "health").text

    assert "publish cannot start: load has failed (import of November)." in one
    assert f'href="/batches/{batch.id}"' in one
    assert "2 jobs cannot start: load has failed" in two


def backlog(text):
    """Return the backlog tile's value and the line below it."""
    found = re.search(
        r'id="tile-backlog".*?class="value">(.*?)</span>.*?class="hint">(.*?)</span>', text, re.DOTALL
    )
    return tuple(" ".join(re.sub(r"<[^>]+>", "", one).split()) for one in found.groups())


def test_backlog_time_is_that_of_the_slowest_queue(client, fire, task):
    """A fast queue does not empty another queue, so the tile shows the slowest queue and its name."""
    serve(fire)
    task.enqueue_many([(n,) for n in range(20)])
    task.using(queue="reports").enqueue_many([(n,) for n in range(30)])
    for minutes in range(1, 11):
        ended(fire, minutes, queue="mail", count=600)
        ended(fire, minutes, queue="reports", count=2)

    # The oldest minute is only partly within the ten minutes.
    assert backlog(client.part("/", "tiles").text) in {("15 min", "in reports"), ("16 min", "in reports")}


def test_backlog_without_a_server_has_no_time(client, fire, task):
    """Jobs in a queue without a server wait forever, no matter how fast the other queues are."""
    serve(fire, queues="mail")
    task.enqueue_many([(n,) for n in range(20)])
    task.using(queue="reports").enqueue_many([(n,) for n in range(2)])
    for minutes in range(1, 11):
        ended(fire, minutes, queue="mail", count=600)

    assert ("never", "no server listens to reports") == backlog(client.part("/", "tiles").text)


def test_backlog_delayed_by_limits_has_no_time(client, fire, task):
    """The rate of other jobs does not predict when jobs that wait for a limit start.

    The tile links to the limits.
    """
    serve(fire)
    fire.limits.set("tenant", concurrent=1)
    task.using(limits=[Turns("tenant:7")]).enqueue_many([(1,), (2,), (3,)])
    Worker(fire).claim()
    for minutes in range(1, 11):
        ended(fire, minutes, count=600)

    text = client.part("/", "tiles").text

    assert ("unknown", "in mail") == backlog(text)
    assert re.search(r'id="tile-backlog" href="/limits"', text)


def test_tile_without_a_backlog_shows_the_completion_rate(client, fire, task):
    """The rate is the mean of the last minutes."""
    serve(fire)
    for minutes in range(1, 11):
        ended(fire, minutes, count=48)

    assert ("–", "48 jobs finish per minute") == backlog(client.part("/", "tiles").text)


def test_oldest_wait_ignores_jobs_delayed_by_limits(client, fire, task):
    """The oldest wait is that of the first job that no limit delays.

    The page shows the number of delayed jobs before it. If limits delay all examined jobs, the page shows the
    wait of the first of them, with the reason and without a warning.
    """
    fire.limits.set("tenant", concurrent=1)
    task.using(limits=[Turns("tenant:7")]).enqueue_many([(1,), (2,), (3,)])
    Worker(fire).claim()
    fire.storage.clock_offset += 7_200 * SECOND

    all_held = client.get("/").text
    task.enqueue(4)
    fire.storage.clock_offset += 120 * SECOND
    client.app.invalidate()
    behind = client.get("/").text

    assert ["2\xa0h", "2\xa0min"] == [tile(all_held, "oldest"), tile(behind, "oldest")]
    assert "in mail; held by limits" in all_held
    assert "in mail" in behind
    held = "the first 2 are held by limits"
    assert re.fullmatch(r"2\sh( 00 min)?", oldest_of_queue(all_held, "mail"))
    assert re.fullmatch(r"2 min( \d\d s)?", oldest_of_queue(behind, "mail"))
    assert held in client.part("/", "places").text


def oldest_of_queue(text, name):
    row = text[text.index(f'id="overview-queue-{name}"') :]
    found = re.search(r'data-label="Oldest">(.*?)</td>', row, re.DOTALL)
    return re.sub(r"<[^>]+>", "", found[1])


def test_banner_contains_the_wait_once(client, fire, task):
    """The sentence contains the duration in the page's usual format and does not repeat it after "since"."""
    task.enqueue(1)
    fire.storage.clock_offset += 25 * MINUTE
    serve(fire)
    ended(fire, outcome="failed", count=95)
    ended(fire, count=5)
    client.app.history.settle()

    text = client.part("/", "health").text

    assert "The first job of queue mail has waited for 25 min.</span>" in text
    assert "95 % of the attempts of shop.send failed" in text


def test_tile_and_table_show_the_same_rate(client, fire, task):
    """If no job of a queue ended recently, the tile and the table show a rate of zero.

    The tile contains the queue's full name.
    """
    serve(fire)
    task.enqueue(1)

    tiles, places = client.part("/", "tiles").text, client.part("/", "places").text

    assert "no job in mail ended for 10 min" in tiles
    assert re.search(r'data-label="Out \(10 min\)">0/min<', places)


def test_task_unknown_to_every_server_has_a_banner(client, fire, task):
    """The tasks of the waiting jobs are compared with the tasks that servers have reported."""
    from firelock.control.catalogue import publish_tasks

    serve(fire)
    publish_tasks(fire.client)
    task.enqueue(1)
    fire.task(name="shop.unheard", queue="mail")(fail).enqueue(1)

    text = client.part("/", "health").text

    assert "1 job is enqueued for task shop.unheard, which no server has." in text
    assert "shop.send" not in text


# ---- data for scripts --------------------------------------------------------------------------------------


def test_chart_data_is_available_as_json(client, fire):
    """The JSON contains starts, labels and one value per bucket. Unchanged numbers are not sent again."""
    ended(fire, count=4)
    ended(fire, outcome="crashed", count=2)
    ended(fire, outcome="retried", count=1)

    history = client.get("/history.json?span=1h").json()
    lines = {line["name"]: line["values"] for line in history["lines"]}

    assert (60, 60, True, "count") == (
        len(history["starts"]), history["bucket"], history["stacked"], history["unit"],
    )  # fmt: skip
    assert (4, 3) == (lines["succeeded"][-2], lines["retried"][-2])
    assert {"Succeeded", "Retrying", "Failed"} == {line["label"] for line in history["lines"]}


def test_latency_without_ended_runs_is_a_gap(client, fire):
    """Without an ended run there is no percentile, so the line has a gap there instead of a zero."""
    ended(fire, seconds=0.5)

    lines = {
        line["name"]: line["values"] for line in client.get("/history.json?kind=latency").json()["lines"]
    }

    assert 0.3 < lines["p50"][-2] < lines["p95"][-2] <= 1.0
    assert lines["p50"][-5] is None


def test_percentiles_of_very_short_runs_are_below_a_millisecond(client, fire, task):
    """Runs of 10 µs are only known to be below 1 ms."""
    task.schedule(timedelta(days=1), 1)  # a waiting job would show how long it has waited
    ended(fire, count=40, seconds=0.00001)

    for address in ("/", "/tasks", "/tasks/view?name=shop.send"):
        # the footer shows how long the page took
        page = re.sub(r"rendered in [^<]*", "", client.get(address).text)
        assert "&lt; 1 ms" in page
        assert "µs" not in page


@pytest.mark.parametrize("address", ["/", "/tasks", "/tasks/view?name=shop.send"])
def test_percentile_of_a_single_run_is_its_duration(client, fire, task, address):
    """A single run of 98 ms has a percentile of 98 ms, not of 55 ms or 94 ms."""
    task.enqueue(1)
    ended(fire, count=1, seconds=0.098)

    page = client.get(address).text

    values = re.findall(r'p95(?:"|</span><span class="value")>([^<]+)', page)
    assert ["98 ms"] == [" ".join(value.split()) for value in values]


def test_pages_without_a_stream_get_the_same_samples(client, dashboard, task):
    """/live.json returns the most recent samples and, if the storage failed, its error."""
    task.enqueue(1)
    dashboard.live.read()

    samples = client.get("/live.json").json()

    assert samples["trouble"] is None
    assert 1 == samples["samples"][0]["enqueued"]
    dashboard.close()


def test_depth_chart_shows_the_last_hour_and_links_keep_the_span(client, fire, task):
    """Periods without data have no links. The links to other charts keep the previously selected period."""
    task.enqueue_many([(1,), (2,)])
    client.app.history.note_depths(fire.jobs.counts())

    page = client.get("/?span=24h&kind=depth").text
    numbers = client.get("/history.json?kind=depth&span=1h").json()

    assert 'data-span="1h"' in page
    assert "kept for an hour" in page
    spans = page.partition('aria-label="Time range"')[2].partition("</nav>")[0]
    assert ["Live", "1 h"] == re.findall(r">([^<>\s][^<>]*)</", spans)
    assert 'href="/?span=24h"' in page
    assert 'href="/?span=24h&amp;kind=latency"' in page
    waiting = next(line["values"] for line in numbers["lines"] if line["name"] == "enqueued")
    assert (60, 60) == (numbers["bucket"], len(waiting))
    assert [2] == [value for value in waiting if value is not None]


def test_day_tiles_draw_the_whole_day(client, fire, task):
    """A tile's number and its drawing, which has a caption, include failures from three hours ago."""
    task.enqueue(1)
    ended(fire, 180, outcome="failed", count=504)
    client.app.history.settle()

    page = client.part("/", "tiles").text

    assert "504" == tile(page, "failed")
    failed = page[page.index('id="tile-failed"') : page.index('id="tile-succeeded"')]
    assert '<path d="M' in failed
    assert "Final failed attempts" in failed
    assert "24 h, 100 % of attempts" in failed
    assert "per 15 min" in failed


def test_processing_tile_draws_the_running_jobs(client, fire, task, dashboard, monkeypatch):
    """The drawing shows running jobs even if none of them has ended.

    The caption contains the recorded period.
    """
    task.enqueue_many([(n,) for n in range(6)])
    claim(fire, 4)
    now = dashboard.history._monotonic()  # noqa: SLF001
    for seconds in range(0, 900, 30):
        monkeypatch.setattr(dashboard.history, "_monotonic", lambda seconds=seconds: now + seconds)
        dashboard.history.note_depths(fire.jobs.counts())

    page = client.part("/", "tiles").text
    processing = page[page.index('id="tile-processing"') : page.index('id="tile-enqueued"')]

    assert "<path d=" in processing
    assert "processing, last 14\N{NO-BREAK SPACE}min" in processing
    assert "waiting, last 14\N{NO-BREAK SPACE}min" in page


@pytest.mark.parametrize("address", ["/", "/queues"])
def test_queue_bars_have_a_legend_and_a_scale(client, task, address):
    """The legend explains the colours of the bars and shows how many jobs a full bar represents."""
    task.enqueue_many([(n,) for n in range(12)])

    page = client.get(address).text
    key = page[page.index('class="bars-key') :].partition("</footer>")[0]

    assert ["Processing", "Enqueued"] == re.findall(r"</i> (\w+)", key)[:2]
    assert "A full bar is 12 jobs" in key


def test_latency_of_a_single_minute_is_a_dot(client, fire, task):
    """A line needs two neighbouring points, so every point has a mark."""
    task.enqueue(1)
    ended(fire, count=1, seconds=0.098)

    page = client.get("/?kind=latency").text

    assert 2 == len(re.findall(r'class="dots state-\w+" d="M', page))


# ---- charts ------------------------------------------------------------------------------------------------


def chart(lines, kind="throughput"):
    count = len(lines[0].values)
    return Chart(kind, "1h", 60, [60.0 * place for place in range(count)], lines, "count", [True] * count)


def test_stacked_bars_are_drawn_to_scale():
    """Each bar begins where the bar below it ends, and the scale ends at a round number above all bars."""
    drawn = chart([Line("succeeded", "succeeded", [3, None]), Line("failed", "failed", [1, 0])])
    lower, upper = drawn.bars()

    assert 4 == drawn.top
    assert (50.0, 150.0) == (lower.y, lower.height)
    assert (0.0, 50.0, lower.y) == (upper.y, upper.height, upper.y + upper.height)


def test_lines_have_gaps_at_missing_values():
    """A missing value interrupts the line; a value without neighbours is a dot."""
    drawn = chart([Line("p50", "processing", [0.1, 1.0, None, 1.0])], "latency")

    assert ["M", "L", "M"] == re.findall("[ML]", drawn.path(drawn.lines[0]))
    assert drawn.path(drawn.lines[0]).startswith("M125.0,200.0")


def test_live_samples_are_on_whole_seconds():
    """Each sample belongs to one second. Seconds without a sample are gaps."""
    samples = [Sample(1_000.5, 7, 2, 0.0, 3.0, 1.0, 0.0, None), Sample(998.4, 5, 1, 0.0, 2.0, 0.0, 0.0, 0.0)]

    drawn = chart_of_samples(samples, 1_000.9, "throughput")
    succeeded = next(line for line in drawn.lines if line.name == "succeeded")

    assert (120, 881.0, 1_000.0) == (len(drawn.starts), drawn.starts[0], drawn.starts[-1])
    assert [2.0, None, 3.0] == succeeded.values[-3:]


def test_seconds_without_samples_share_the_rest_of_their_minute():
    """Attempts of a minute that are in no sample are spread evenly over its seconds without samples."""
    samples = [Sample(960.5, 7, 2, None, None, None, None, None)]  # no rates in the first reading
    samples += [Sample(at + 0.5, 7, 2, 0.0, 4.0, 1.0, 0.0, 0.0) for at in (961, 962)]
    ended = {900: {"succeeded": 120}, 960: {"succeeded": 47, "failed": 1, "crashed": 4}}

    drawn = chart_of_samples(samples, 1_000.9, "throughput", ended)
    depths = chart_of_samples(samples, 1_000.9, "depth", ended)

    lines = {line.name: line.values for line in drawn.lines}
    place = 960 - int(drawn.starts[0])
    assert [2.0, 1.0, 4.0, 4.0, 1.0] == lines["succeeded"][place - 1 : place + 4]
    assert [0.0, 1.0, 1.0, 0.0] == lines["failed"][place : place + 4]
    assert {0.1, 0.0} == set(lines["retried"][place:])
    assert lines["succeeded"][: 900 - int(drawn.starts[0])] == [None] * (900 - int(drawn.starts[0]))
    assert 3 == sum(value is not None for value in depths.lines[0].values)


def test_live_chart_explains_its_means_and_gaps(client, fire, task):
    """Seconds without samples are filled with means from the servers' rollups."""
    task.enqueue(1)
    minute = fire.storage.clock() // 60_000_000 * 60_000_000 - 60_000_000
    fire.storage.record_metrics([Rollup(minute, "shop.send", "mail", "succeeded", 600, 1, (600, *(0,) * 12))])

    history = client.get("/history.json?span=live&kind=throughput").json()

    succeeded = next(line["values"] for line in history["lines"] if line["name"] == "succeeded")
    assert 10.0 in succeeded
    assert "shows the mean of its minute" in client.get("/?span=live").text
    assert "kept for an hour" in client.get("/?span=live&kind=depth").text


@pytest.mark.parametrize(("value", "expected"), [(0, 1), (0.7, 0.8), (1, 1), (41, 50), (1_001, 1_200)])
def test_scales_end_at_round_numbers(value, expected):
    """The scale ends at the next round number, and at 1 if all values are 0."""
    assert pytest.approx(expected) == round_up(value)


def test_sparkline_without_values_is_empty():
    """The line goes from the first to the last value; without values there is no line."""
    assert "" == spark([]) == spark([5]) == spark([0, 0, 0])
    assert spark([0, 2]).startswith("M0.0,27.0")
    assert spark([0, 2]).endswith("L120.0,1.0")


# ---- jobs that wait for a signal ------------------------------------------------------------------------


def suspended(fire, name, due_at=None):
    """Suspend a job of the task until it gets a signal, and return the job."""
    (job,) = claim(fire, 1)
    end(fire, job, State.AWAITING, waits_for=f"signal {name}", gives_back=True, due_at=due_at)
    return job


def test_jobs_that_wait_for_a_signal_have_a_banner(client, fire, task):
    """The banner contains the number of jobs, the signals, and a link.

    It also shows when the first job will continue without an answer.
    """
    task.enqueue_many([(1,), (2,)])
    nobody = client.part("/", "health").text
    now = fire.storage.clock()
    first = suspended(fire, "manager", now + 49 * 3_600 * SECOND)
    client.app.invalidate()
    one = client.part("/", "health").text
    suspended(fire, "lawyer")
    client.app.invalidate()
    two = client.part("/", "health").text

    assert "problem-awaiting_answers" not in nobody
    assert (
        "1 job is waiting for an answer to “manager”. Without an answer, its task continues with None in 2"
        in one
    )
    assert f'href="/jobs/{first.id}"' in one
    assert "2 jobs are waiting for an answer to “lawyer”, “manager”. Without an answer, the first task" in two
    assert 'href="/jobs?state=awaiting&amp;order=oldest&amp;signal=*"' in two or "signal=%2A" in two
