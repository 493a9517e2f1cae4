"""The page of a batch: how far it is, its members, cancelling it and running again what failed."""

from __future__ import annotations

import re

from firelock.storage import Edge, State
from tests.dashboard.flows import add, claim, end, new_batch


def page_of(client, batch):
    answer = client.get(f"/batches/{batch}")
    assert answer.status == 200
    return answer.text


def text_of(html):
    """The words of a page, without its marks."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_the_page_says_how_far_it_is(fire, client):
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
    assert "1 wait for another member" in text


def test_the_page_of_a_job_leads_to_that_of_its_batch(fire, client):
    batch = new_batch(fire)
    member = add(fire, batch)
    assert client.get(f"/jobs/{batch}").location == f"/batches/{batch}"
    assert f'href="/batches/{batch}"' in client.get(f"/jobs/{member}").text


def test_a_job_is_no_batch(fire, client):
    member = add(fire, new_batch(fire))
    assert client.get(f"/batches/{member}").status == 404
    assert client.post("/batches/requeue", {"one": member}).status == 404


def test_the_list_of_members_is_a_list_of_jobs(fire, client):
    batch, other = new_batch(fire), new_batch(fire, "another")
    mine, theirs = add(fire, batch), add(fire, other)
    page = client.get(f"/jobs?batch={batch}").text
    assert f"job-{mine}" in page
    assert f"job-{theirs}" not in page
    assert f"job-{batch}" not in page


def test_a_batch_is_listed_by_its_name(fire, client):
    batch = new_batch(fire)
    page = client.get("/jobs").text
    row = re.search(rf'<tr id="job-{batch}".*?</tr>', page, re.DOTALL)[0]
    assert "import of tuesday" in row
    assert "firelock:batch" not in text_of(row)


def test_a_flow_is_drawn_and_leads_to_its_jobs(fire, client):
    batch = new_batch(fire)
    load = add(fire, batch)
    merge = add(fire, batch, "shop.merge", parents=[load])
    page = page_of(client, batch)
    assert '<svg class="flow"' in page
    drawn = re.search(r'<svg class="flow".*?</svg>\s*</div>', page, re.DOTALL)[0]
    assert f'href="/jobs/{load}"' in drawn
    assert f'href="/jobs/{merge}"' in drawn


def test_the_graph_says_states_in_words(fire, client):
    batch = new_batch(fire)
    load = add(fire, batch)
    merge = add(fire, batch, "shop.merge", parents=[load])
    drawn = re.search(r'<svg class="flow".*?</svg>\s*</div>', page_of(client, batch), re.DOTALL)[0]
    assert f"load Enqueued · {load[-8:]}" in text_of(drawn)
    assert f"merge Awaiting · {merge[-8:]}" in text_of(drawn)


def test_members_that_wait_for_nobody_are_no_flow(fire, client):
    batch = new_batch(fire)
    add(fire, batch)
    assert '<svg class="flow"' not in page_of(client, batch)


def test_cancelling_stops_it_for_good(fire, client):
    batch = new_batch(fire)
    add(fire, batch)
    answer = client.act("/jobs/delete", {"one": batch})
    assert answer.status == 200
    while fire.storage.release(100):
        pass
    assert fire.storage.get([batch])[0].state is State.DELETED
    assert "Cancel the batch" not in text_of(page_of(client, batch))


def test_what_failed_runs_again(fire, client, dashboard):
    batch = new_batch(fire)
    add(fire, batch)
    (job,) = claim(fire)
    end(fire, job, State.FAILED)
    assert "Run what failed" in text_of(page_of(client, batch))
    answer = client.act("/batches/requeue", {"one": batch})
    assert answer.status == 200
    assert [State.ENQUEUED, State.AWAITING] == [one.state for one in fire.storage.get([job.id, batch])]


def test_of_many_that_failed_the_first_opens_the_batch(fire, client, dashboard, monkeypatch):
    monkeypatch.setattr("firelock_dashboard.pages.batch._PAGE", 1)
    batch = new_batch(fire)
    members = [add(fire, batch), add(fire, batch)]
    for job in claim(fire, limit=2):
        end(fire, job, State.FAILED)
    monkeypatch.setattr(dashboard.runner, "start", lambda _: None)
    client.act("/batches/requeue", {"one": batch})
    states = [one.state for one in fire.storage.get([*members, batch])]
    assert [State.ENQUEUED, State.FAILED, State.AWAITING] == states


def test_inner_batches_are_summed_up(fire, client):
    outer = new_batch(fire, "outer")
    inner = new_batch(fire, "inner", outer=outer)
    for _ in range(3):
        add(fire, inner)
    add(fire, outer)
    text = text_of(page_of(client, outer))
    assert "0 of 2 ended" in text
    assert "With 1 inner batch: 0 of 4 jobs have ended." in text


def test_one_that_waits_says_so(fire, client):
    @fire.task(name="shop.before")
    def before() -> None:
        """Never run here."""

    batch = new_batch(fire, parents=[Edge(before.enqueue().id)])
    member = add(fire, batch)
    assert "Its members start when what it is after has ended." in text_of(page_of(client, batch))
    assert "runs when its batch" in text_of(client.get(f"/jobs/{member}").text)


def test_a_name_is_shown_as_it_is(fire, client, hostile):
    page = page_of(client, new_batch(fire, hostile))
    assert hostile not in page or not set(hostile) & set("<>&\"'")
