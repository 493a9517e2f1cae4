"""The page of a batch: its progress, its members, cancelling it, and requeueing its failed members."""

from __future__ import annotations

import re
from contextlib import closing

import pytest

from firelock.storage import Edge, ErrorInfo, FoundJobs, Input, State
from firelock_dashboard import Access, Dashboard, Permission
from tests.dashboard.browser import Browser
from tests.dashboard.flows import add, claim, end, new_batch, remember


def page_of(client, batch):
    answer = client.get(f"/batches/{batch}")
    assert answer.status == 200
    return answer.text


def text_of(html):
    """Return the text of a page without its markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_batch_page_shows_progress(fire, client):
    batch = new_batch(fire)
    load = add(fire, batch)
    add(fire, batch, "shop.merge", parents=[load])
    add(fire, batch)
    for job in claim(fire, 1):
        end(fire, job, State.FAILED)
    text = text_of(page_of(client, batch))
    assert "import of tuesday" in text
    assert "1 of 3 ended" in text
    assert "1 failed" in text
    assert "1 waiting for another member" in text


def test_job_page_links_to_its_batch(fire, client):
    batch = new_batch(fire)
    member = add(fire, batch)
    assert client.get(f"/jobs/{batch}").location == f"/batches/{batch}"
    assert f'href="/batches/{batch}"' in client.get(f"/jobs/{member}").text


def test_batch_page_of_a_job_that_is_not_a_batch_is_not_found(fire, client):
    member = add(fire, new_batch(fire))
    assert client.get(f"/batches/{member}").status == 404
    assert client.post("/batches/requeue", {"one": member}).status == 404


def test_members_are_listed_as_jobs(fire, client):
    batch, other = new_batch(fire), new_batch(fire, "another")
    mine, theirs = add(fire, batch), add(fire, other)
    page = client.get(f"/jobs?batch={batch}").text
    assert f"job-{mine}" in page
    assert f"job-{theirs}" not in page
    assert f"job-{batch}" not in page


def test_job_list_shows_a_batch_by_its_name(fire, client):
    batch = new_batch(fire)
    page = client.get("/jobs").text
    row = re.search(rf'<tr id="job-{batch}".*?</tr>', page, re.DOTALL)[0]
    assert "import of tuesday" in row
    assert "firelock:batch" not in text_of(row)


def test_flow_graph_links_to_its_jobs(fire, client):
    batch = new_batch(fire)
    load = add(fire, batch)
    merge = add(fire, batch, "shop.merge", parents=[load])
    page = page_of(client, batch)
    assert '<svg class="flow"' in page
    drawn = re.search(r'<svg class="flow".*?</svg>\s*</div>', page, re.DOTALL)[0]
    assert f'href="/jobs/{load}"' in drawn
    assert f'href="/jobs/{merge}"' in drawn


def test_graph_shows_states_in_words(fire, client):
    batch = new_batch(fire)
    load = add(fire, batch)
    merge = add(fire, batch, "shop.merge", parents=[load])
    drawn = re.search(r'<svg class="flow".*?</svg>\s*</div>', page_of(client, batch), re.DOTALL)[0]
    assert f"load Enqueued · {load[-8:]}" in text_of(drawn)
    assert f"merge Awaiting · {merge[-8:]}" in text_of(drawn)


def test_flow_page_describes_its_tasks(fire, client):
    """The first paragraphs of the tasks' docstrings are below the graph and in the tooltips of its nodes."""

    @fire.task(name="shop.load")
    def load() -> None:
        """Load one day of the warehouse."""

    @fire.task(name="shop.merge")
    def merge() -> None: ...

    batch = new_batch(fire)
    add(fire, batch, "shop.merge", parents=[add(fire, batch), add(fire, batch)])

    page = page_of(client, batch)

    below = re.search(r'<dl class="facts body" aria-label="Tasks of the flow">.*?</dl>', page)[0]
    assert "load Load one day of the warehouse." == text_of(below).strip()
    wide = re.findall(r'<svg class="flow".*?</svg>\s*</div>', page, re.DOTALL)[-1]
    assert 2 == len(re.findall(r"<title>[^<]* · Load one day of the warehouse.</title>", wide))


def test_batch_without_dependencies_has_no_graph(fire, client):
    batch = new_batch(fire)
    add(fire, batch)
    assert '<svg class="flow"' not in page_of(client, batch)


def test_cancelled_batch_does_not_continue(fire, client):
    batch = new_batch(fire)
    add(fire, batch)
    answer = client.act("/jobs/delete", {"one": batch})
    assert answer.status == 200
    while fire.storage.release(100):
        pass
    assert fire.storage.get([batch])[0].state is State.DELETED
    assert "Cancel batch" not in text_of(page_of(client, batch))


def test_failed_members_are_requeued(fire, client, dashboard):
    batch = new_batch(fire)
    add(fire, batch)
    (job,) = claim(fire)
    end(fire, job, State.FAILED)
    assert "Requeue failed members" in text_of(page_of(client, batch))
    answer = client.act("/batches/requeue", {"one": batch})
    assert answer.status == 200
    assert [State.ENQUEUED, State.AWAITING] == [one.state for one in fire.storage.get([job.id, batch])]


def test_requeue_of_many_failed_members_first_opens_the_batch(fire, client, dashboard, monkeypatch):
    monkeypatch.setattr("firelock_dashboard.pages.batch._PAGE", 1)
    batch = new_batch(fire)
    members = [add(fire, batch), add(fire, batch)]
    for job in claim(fire, limit=2):
        end(fire, job, State.FAILED)
    monkeypatch.setattr(dashboard.runner, "start", lambda _: None)
    client.act("/batches/requeue", {"one": batch})
    states = [one.state for one in fire.storage.get([*members, batch])]
    assert [State.ENQUEUED, State.FAILED, State.AWAITING] == states


def test_members_and_jobs_of_inner_batches_are_counted_separately(fire, client):
    """The page counts the batch's own members, with each inner batch as one, and separately all jobs."""
    outer = new_batch(fire, "outer")
    inner = new_batch(fire, "inner", outer=outer)
    for _ in range(3):
        add(fire, inner)
    add(fire, outer)
    (job,) = claim(fire, 1)
    end(fire, job, State.FAILED)

    text = text_of(page_of(client, outer))

    assert "0 of 2 ended" in text
    assert "These are the direct members of the batch. 1 of them is a batch and counts as one member." in text
    assert "Including the jobs of the nested batch: 1 of 4 ended. 1 failed 3 active" in text
    assert "Members of nested batches are listed on the pages of those batches." in text


def test_batch_without_inner_batches_has_one_count(fire, client):
    batch = new_batch(fire)
    add(fire, batch)

    assert "direct members" not in text_of(page_of(client, batch))


def test_only_the_first_inner_batches_are_counted(fire, client, monkeypatch):
    monkeypatch.setattr("firelock_dashboard.pages.batch._WITHIN", 2)
    outer = new_batch(fire, "outer")
    for number in range(3):
        inner = new_batch(fire, f"inner {number}", outer=outer)
        for _ in range(5):
            add(fire, inner)

    text = text_of(page_of(client, outer))

    assert "Including the jobs of the first 2 nested batches: 0 of 11 ended." in text


# ---- members ---------------------------------------------------------------------------------------------


def fail(fire, job, message="no address", fingerprint="f-1", kind="ValueError"):
    end(fire, job, State.FAILED, error=ErrorInfo(kind, message, fingerprint))


def members_of(html):
    """Return the ids of the members that a page lists."""
    return re.findall(r'<tr id="member-([^"]+)"', html)


def tabs_of(html):
    """Return the tabs with their counts, and the selected one."""
    tabs = re.findall(
        r'<a id="tab-(\w+)"[^>]*?( aria-current="page")?>.*?<span class="number">([\d,]+)</span>', html
    )
    return {name: count for name, _, count in tabs}, [name for name, current, _ in tabs if current]


def test_failed_members_are_listed_by_default(fire, client):
    """Without a selected tab, the failed members are listed with their arguments and errors."""
    batch = new_batch(fire)
    members = [add(fire, batch, arguments=f'{{"customer_id":{number}}}') for number in range(30)]
    for number, job in enumerate(claim(fire)):
        fail(fire, job) if number in {3, 4} else end(fire, job)

    html = page_of(client, batch)

    assert sorted(members_of(html)) == sorted([members[3], members[4]])
    assert "customer_id=3" in text_of(html)
    assert "ValueError: no address" in text_of(html)
    assert tabs_of(html) == (
        {"all": "30", "failed": "2", "active": "0", "waiting": "0", "succeeded": "28", "deleted": "0"},
        ["failed"],
    )  # fmt: skip


def test_without_failures_all_members_are_listed(fire, client):
    batch = new_batch(fire)
    member = add(fire, batch)

    html = page_of(client, batch)

    assert members_of(html) == [member]
    assert tabs_of(html)[1] == ["all"]


def test_each_tab_lists_its_members(fire, client):
    """Active members can still progress: they are running, enqueued, scheduled, or waiting for a signal."""
    batch = new_batch(fire)
    a, b, c, d, e = (add(fire, batch) for _ in range(5))
    waiting = add(fire, batch, parents=[d])
    jobs = {job.id: job for job in claim(fire, 4)}
    end(fire, jobs[a], State.FAILED)
    end(fire, jobs[b])
    due_at = fire.storage.clock() + 3_600_000_000
    end(fire, jobs[c], State.AWAITING, waits_for="signal go", gives_back=True, due_at=due_at)

    html = page_of(client, batch)
    listed = {
        name: set(members_of(client.get(f"/batches/{batch}?show={name}").text)) for name in tabs_of(html)[0]
    }

    assert tabs_of(html)[0] == {
        "all": "6", "failed": "1", "active": "3", "waiting": "1", "succeeded": "1", "deleted": "0",
    }  # fmt: skip
    assert listed == {
        "all": {a, b, c, d, e, waiting}, "failed": {a}, "active": {c, d, e}, "waiting": {waiting},
        "succeeded": {b}, "deleted": set(),
    }  # fmt: skip


def test_inner_batch_counts_as_waiting_until_its_members_may_start(fire, client):
    """A batch is awaiting before and after it opens; it counts as waiting until its members may start."""
    batch = new_batch(fire)
    first = add(fire, batch)
    inner = new_batch(fire, "inner", outer=batch, parents=[Edge(first)])
    add(fire, inner)
    (job,) = claim(fire)

    def listed(name):
        return set(members_of(client.get(f"/batches/{batch}?show={name}").text))

    before = listed("active"), listed("waiting")
    end(fire, job)
    after = listed("active"), listed("waiting")

    assert before == ({first}, {inner})
    assert after == ({inner}, set())


def test_unknown_tab_is_refused(fire, client):
    assert client.get(f"/batches/{new_batch(fire)}?show=lost").status == 400


def test_arguments_of_members_are_hidden_without_view_args(fire):
    batch = new_batch(fire)
    add(fire, batch, arguments='{"customer_id":4711}')

    reader = Access(frozenset({Permission.READ}), "reader")
    with closing(Browser(Dashboard(fire, auth=lambda _: reader))) as client:
        html = page_of(client, batch)

    assert "shop.load" in text_of(html).replace(" ", "")
    assert "4711" not in html


def test_inner_batch_links_to_its_page(fire, client):
    outer = new_batch(fire, "outer")
    inner = new_batch(fire, "inner", outer=outer)
    add(fire, inner)

    html = page_of(client, outer)

    row = re.search(rf'<tr id="member-{inner}".*?</tr>', html, re.DOTALL)[0]
    assert f'href="/batches/{inner}"' in row
    assert "inner 0 of 1 ended" in text_of(row)


def test_failed_members_are_found_after_empty_storage_pages(fire, client, monkeypatch):
    """A storage may return an empty page although more members follow."""
    batch = new_batch(fire)
    add(fire, batch)
    (job,) = claim(fire)
    fail(fire, job)
    find, calls = fire.storage.find, []

    def empty_first(where, *, limit, cursor=None, oldest_first=False):
        if where.state is State.FAILED and cursor is None:
            calls.append(where)
            return FoundJobs([], "further")
        return find(
            where, limit=limit, cursor=None if cursor == "further" else cursor, oldest_first=oldest_first
        )

    monkeypatch.setattr(fire.storage, "find", empty_first)

    assert members_of(page_of(client, batch)) == [job.id]
    assert calls


# ---- causes ----------------------------------------------------------------------------------------------


def test_equal_errors_are_listed_once(fire, client):
    """Each error has the number of its members and a link to them. The most frequent error is first."""
    batch, other = new_batch(fire), new_batch(fire, "another")
    for _ in range(4):
        add(fire, batch)
    add(fire, other)
    jobs = claim(fire)
    fail(fire, jobs[0], "upstream is slow", "f-2", "TimeoutError")
    for job in jobs[1:]:
        fail(fire, job)

    html = page_of(client, batch)

    causes = re.search(
        r'<section class="card" aria-labelledby="causes-title">.*?</section>', html, re.DOTALL
    )[0]
    text = text_of(causes)
    assert text.count("no address") == text.count("upstream is slow") == 1
    assert re.search(
        r"ValueError no address .* 3 members .* TimeoutError upstream is slow .* 1 member ", text
    )
    (address,) = set(re.findall(r'href="(/jobs\?[^"]*fingerprint=f-1[^"]*)"', causes))
    listed = client.get(address.replace("&amp;", "&")).text
    assert {job.id for job in jobs[1:4]} == set(re.findall(r'<tr id="job-([^"]+)"', listed))


def test_errors_of_a_failed_inner_batch_are_on_its_page(fire, client):
    outer = new_batch(fire, "outer")
    add(fire, new_batch(fire, "inner", outer=outer))
    (job,) = claim(fire)
    fail(fire, job)

    text = text_of(page_of(client, outer))

    assert "1 failed member is a batch. Its page lists its errors." in text
    assert "its only member failed" in text


def test_causes_card_states_that_not_all_failures_are_grouped(fire, client, monkeypatch):
    monkeypatch.setattr("firelock_dashboard.pages.batch._PAGE", 2)
    batch = new_batch(fire)
    for _ in range(3):
        add(fire, batch)
    for job in claim(fire):
        fail(fire, job)

    assert "Only the newest 2 of 3 failed members are grouped." in text_of(page_of(client, batch))


def test_failed_members_without_an_error_are_counted(fire, client):
    """The card of causes is not empty: it states that no error is recorded."""
    batch = new_batch(fire)
    for _ in range(3):
        add(fire, batch)
    first, *others = claim(fire)
    end(fire, first, State.FAILED)
    one = text_of(page_of(client, batch))
    for job in others:
        end(fire, job, State.FAILED, error=ErrorInfo("OSError", "no disk", "f", "Traceback"))

    assert "Why members failed No error is recorded for 1 failed member." in one
    text = text_of(page_of(client, batch))
    assert "OSError no disk" in text
    assert "No error is recorded for 1 failed member." in text


def test_suspended_member_shows_the_awaited_signal(fire, client):
    """The member counts as active, because it does not wait for another member. Its row names the signal."""
    batch = new_batch(fire)
    add(fire, batch, "shop.approve")
    (job,) = claim(fire)
    remember(fire, job, "signal", "manager", None, is_done=False)
    end(fire, job, State.AWAITING, waits_for="signal manager", gives_back=True)

    text = text_of(client.get(f"/batches/{batch}?show=active").text)

    assert "for an answer to “manager”" in text
    assert "1 active" in text


def test_batch_without_failures_has_no_causes(fire, client):
    batch = new_batch(fire)
    add(fire, batch)

    assert "Why members failed" not in page_of(client, batch)


# ---- actions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [State.SUCCEEDED, State.FAILED])
def test_ended_batch_cannot_be_cancelled(fire, client, outcome):
    batch = new_batch(fire)
    add(fire, batch)
    (job,) = claim(fire)
    before = text_of(page_of(client, batch))
    end(fire, job, outcome)

    after = text_of(page_of(client, batch))

    assert fire.storage.get([batch])[0].state is outcome
    assert "Cancel batch" in before
    assert "Cancel batch" not in after


def test_failed_batch_shows_that_members_cannot_start(fire, client):
    """Members that wait for a failed member can only start after a requeue.

    The page uses the same words for this everywhere.
    """
    batch = new_batch(fire)
    add(fire, batch, "shop.merge", parents=[add(fire, batch)])
    for job in claim(fire):
        end(fire, job, State.FAILED)

    page = page_of(client, batch)
    facts = re.search(r'<dl class="facts body">.*?</dl>', page, re.DOTALL)[0]

    assert re.search(r"Failed (now|\d+ s ago) , 1 member cannot start", text_of(facts))
    assert "1 cannot start" in text_of(
        re.search(r'<ul class="counted" aria-label="Progress">.*?</ul>', page, re.DOTALL)[0]
    )
    assert "waiting for another member" not in page
    assert "Ended" not in facts


def test_batch_history_uses_the_word_of_its_state(fire, client):
    batch = new_batch(fire)
    add(fire, batch)
    html = page_of(client, batch)

    assert "Awaiting" not in text_of(re.search(r'<ol class="history">.*?</ol>', html, re.DOTALL)[0])


def test_node_names_the_task_whose_output_it_uses(fire, client):
    batch = new_batch(fire)
    load = add(fire, batch)
    add(
        fire, batch, "shop.merge", parents=[load], arguments='{"rows":null}', inputs=(Input(load, ("rows",)),)
    )

    drawn = re.search(r'<svg class="flow".*?</svg>\s*</div>', page_of(client, batch), re.DOTALL)[0]

    assert "merge Awaiting · output of load" in text_of(drawn)


def test_waiting_batch_explains_when_its_members_start(fire, client):
    @fire.task(name="shop.before")
    def before() -> None:
        """Never run here."""

    batch = new_batch(fire, parents=[Edge(before.enqueue().id)])
    member = add(fire, batch)
    assert "The members start after the jobs that the batch waits for." in text_of(page_of(client, batch))
    assert "can start when its batch" in text_of(client.get(f"/jobs/{member}").text)


def test_hostile_batch_name_is_shown_literally(fire, client, hostile):
    page = page_of(client, new_batch(fire, hostile))
    assert hostile not in page or not set(hostile) & set("<>&\"'")


def test_member_page_names_its_batch(fire, client):
    """The pages of a job and of an inner batch name the outer batch.

    If the outer batch is no longer stored, they show its id.
    """
    outer = new_batch(fire, "warehouse import of November")
    inner = new_batch(fire, "one day", outer=outer)
    job = add(fire, outer)

    of_job = client.part(f"/jobs/{job}", "relations").text
    of_batch = client.part(f"/batches/{inner}", "facts").text

    assert f'href="/batches/{outer}">warehouse import of November</a>' in of_job
    assert f'href="/batches/{outer}">warehouse import of November</a>' in of_batch
