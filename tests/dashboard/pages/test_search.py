"""Search: one text is searched for in names, and in the arguments of jobs."""

from __future__ import annotations

import html
import re

import pytest

from firelock import Cron, Limit, Retry, State
from firelock.storage import NewSession
from tests.core.fakes import Worker

DAY = 86_400


@pytest.fixture
def shop(fire):
    """A task, a queue, a recurring job and a server, with waiting jobs and a failed one."""

    @fire.task(name="shop.reports.build", queue="reports", tags=["city:{city}"], retry=Retry.never())
    def build(city: str, password: str = "") -> None:
        raise ValueError(f"no figures of {city}")

    build.enqueue("rome")
    Worker(fire).run()
    build.enqueue("izmir", password="hunter2")
    build.enqueue("izmir")
    build.recur("reports-nightly", Cron("0 2 * * *"), "paris")
    session = NewSession("s", "id-1", "reporter", "host-9", 7, fire.client.clock.now(), DAY, 4, "*")
    fire.storage.begin_session(session)
    return build


def found(client, text):
    """Return the results in the palette by kind, each as a list of URLs."""
    page = client.get(f"/search?part=options&q={text}").text
    groups = re.split(r'<div role="group" aria-label="([^"]+)">', page)[1:]
    return {
        name: [html.unescape(one) for one in re.findall(r'href="([^"]+)"', body)]
        for name, body in zip(groups[::2], groups[1::2], strict=True)
    }


def test_objects_are_found_by_part_of_their_name(client, shop):
    """Tasks, queues, recurring jobs and servers are found by any part of their name."""
    assert ["/tasks/view?name=shop.reports.build"] == found(client, "build")["Tasks"]
    everything = found(client, "report")

    assert ["/queues/reports"] == everything["Queues"]
    assert ["/recurring/view?id=reports-nightly"] == everything["Recurring jobs"]
    assert ["/servers#server-id-1"] == everything["Servers"]
    assert ["/servers#server-id-1"] == found(client, "host-9")["Servers"]


def test_jobs_are_found_by_id_tag_argument_and_error(fire, client, shop):
    """Jobs are found by the beginning of their id, a whole tag, a part of an argument, or an error's text."""
    waiting = [f"/jobs/{job.id}" for job in fire.jobs.find(state=State.ENQUEUED)]
    failed = next(iter(fire.jobs.find(state=State.FAILED)))

    assert [f"/jobs/{failed.id}"] == found(client, failed.id)["Jobs by id"]
    assert ["/jobs?tag=city%3Aizmir"] == found(client, "city:izmir")["Jobs by tag"]
    assert waiting == found(client, "izm")["Jobs with this argument"]
    assert [f"/failures/{failed.error.fingerprint}"] == found(client, "figures")["Failures"]


def exact(client, text):
    """Return the URLs that are marked as exact matches; Enter opens the first of them."""
    page = client.get(f"/search?part=options&q={text}").text
    return [html.unescape(one) for one in re.findall(r'data-exact [^>]*href="([^"]+)"', page)]


@pytest.mark.parametrize("text", ["city+izmir", "city=izmir", "City++izmir", "izmir"])
def test_tag_is_found_without_its_colon(client, shop, text):
    """A blank or an equals sign may be used instead of the colon. The value alone is sufficient, too."""
    assert ["/jobs?tag=city%3Aizmir"] == exact(client, text)[:1]


@pytest.mark.parametrize("text", ["amount+12", "Amount=12"])
def test_argument_is_found_by_name_and_value(fire, client, text):
    """The name is that of a parameter, not of a tag. Other parameters with the same value do not match."""

    @fire.task(name="shop.charge")
    def charge(order: int, amount: int) -> None: ...

    job = charge.enqueue(1, 12)
    charge.enqueue(12, 1)

    assert [f"/jobs/{job.id}"] == found(client, text)["Jobs with this argument"]


def test_name_and_value_are_searched_together_everywhere(fire, client, shop):
    """The search in tags and the search in arguments both split the text into a name and a value."""
    assert ["/jobs?arg=city%3Aizmir"] == found(client, "city+izmir")["Jobs with this argument"]
    assert ("/jobs?tag=city%3Aizmir", "2") == offered(client, "/jobs?error=city+izmir")["as a tag"]
    assert ("/jobs?arg=city%3Aizmir", None) == offered(client, "/jobs?error=city+izmir")["in arguments"]
    assert 'href="/jobs?arg=city%3Aoslo"' in client.get("/search?q=city+oslo").text


def test_words_without_a_matching_tag_are_not_a_tag(client, shop):
    """Either no task creates tags with this name, or no job has a tag with this value."""
    assert [] == exact(client, "country+izmir")
    assert [] == exact(client, "city+oslo")


@pytest.mark.parametrize(
    ("typed", "leads_to"), [("city+izmir", "tag=city%3Aizmir"), ("no+figures", "error=no+figures")]
)
def test_job_filter_accepts_a_tag_without_its_colon(client, shop, typed, leads_to):
    """The text counts as a tag if a job has this tag. Otherwise, it is searched for in errors."""
    answer = client.get(f"/jobs?q={typed}")

    assert answer.header("location") == f"/jobs?{leads_to}"


@pytest.fixture
def mail(fire):
    """A batch, with jobs whose tags, queue, task, limit keys and batch have equal names."""

    @fire.task(
        name="shop.mail", queue="mail", tags=["mail", "to:{to}"], limits=[Limit("to:{to}", concurrent=1)]
    )
    def mail(to: str) -> None: ...

    fire.limits.sync()
    mail.enqueue("eva")
    with fire.batch("mail") as batch:
        batch.add(mail, "max")
    return batch


def test_exact_matches_come_first_in_a_fixed_order(client, mail):
    """Exact matches are listed in the order tags, ids, batches, tasks, queues and limit keys.

    A limit key for which jobs wait comes first. Results that only contain the text are listed last.
    """
    assert ["/jobs?tag=mail", f"/batches/{mail.id}", "/tasks/view?name=shop.mail", "/queues/mail"] == exact(
        client, "mail"
    )
    # one job waits for the key, so the key is first
    assert ["/limits/key?key=to%3Aeva", "/jobs?tag=to%3Aeva"] == exact(client, "to:eva")
    assert [f"/batches/{mail.id}"] == exact(client, mail.id)
    assert [] == exact(client, "to:ev")
    assert ["Batches", "Limits"] == [
        name for name in found(client, "to:") | found(client, "mail") if name in {"Batches", "Limits"}
    ][::-1]


def test_tag_result_links_to_its_jobs(fire, client, shop):
    """A tag is found by its exact text or a part of it, and the result links to its jobs."""
    assert "/jobs?tag=city%3Aizmir" in found(client, "izm")["Jobs by tag"]
    assert "/jobs?tag=city%3Aizmir" == exact(client, "city:izmir")[0]
    assert "/jobs?tag=city%3Aizmir" == client.get("/jobs?q=city:izmir").location


def test_exact_match_skips_the_search_in_arguments(client, shop):
    """The arguments of jobs are not searched, but a link offers this search."""
    assert ["/jobs?arg=city%3Aizmir"] == found(client, "city:izmir")["Jobs with this argument"]
    assert "Search arguments" in client.get("/search?q=city:izmir").text


def test_word_that_is_not_a_filter_is_tried_as_a_tag(client, shop):
    """A single word, or a word with a colon, is used as a tag or a queue if one exists.

    Other words are searched for in errors.
    """
    for typed, address in (
        ("city:rome", "/jobs?tag=city%3Arome"),
        ("reports", "/jobs?queue=reports"),
        ("state:failed city:rome", "/jobs?state=failed&tag=city%3Arome"),
        ("city:nowhere", "/jobs?error=city%3Anowhere"),
        ("no figures of rome", "/jobs?error=no+figures+of+rome"),
    ):
        assert address == client.get(f"/jobs?q={typed.replace(' ', '+')}").location


def test_batches_and_limit_keys_are_found(client, mail, fire):
    """A batch is found by a part of its name or the beginning of its id, and a limit key by its beginning."""
    fire.batch("<b>winter</b>").__enter__().__exit__(None, None, None)

    assert [f"/batches/{mail.id}"] == found(client, "mai")["Batches"]
    assert ["/limits/key?key=to%3Aeva", "/limits/key?key=to%3Amax"] == found(client, "to:")["Limits"]
    assert "&lt;b&gt;winter&lt;/b&gt;" in client.get("/search?q=winter").text


def test_empty_or_unknown_text_has_no_results(client, shop):
    """A text that is too long or contains a NUL character causes an error."""
    assert {} == found(client, "")
    assert {} == found(client, "nowhere")
    assert "No results for nowhere" in client.get("/search?q=nowhere").text
    assert 'href="/queues/reports"' in client.get("/search?q=report").text  # the page works without a script
    assert [400, 400] == [client.get(f"/search?q={text}").status for text in ("x" * 201, "a%00b")]


def test_results_of_each_kind_are_bounded(fire, client):
    """Each kind shows at most five results, the best ones first, and a link to all results."""
    for number in range(9):
        fire.task(name=f"shop.a{number}.sum_up")(lambda: None)
    fire.task(name="shop.up")(lambda: None)

    tasks = found(client, "up")["Tasks"]

    assert 6 == len(tasks)
    assert "/tasks/view?name=shop.up" == tasks[0]
    assert "/tasks?q=up" == tasks[-1]


# ---- offers of a list without results ---------------------------------------------------------------------


def offered(client, address):
    """Return the offered searches by name: the URL, and the number or None."""
    page = client.get(address).text.partition("Search for the same text")[2].partition("</ul>")[0]
    links = re.findall(r'href="([^"]+)">([^<]+?)\s*(?:<span class="number">([^<]+)</span>)?</a>', page)
    return {name: (html.unescape(to), number or None) for to, name, number in links}


def test_list_without_matches_offers_other_searches(client, shop):
    """The page offers searches by id, task, queue and tag, in errors and in arguments.

    It shows the number of results if this number is cheap to determine.
    """
    ways = offered(client, "/jobs?tag=reports")

    assert ("/jobs?queue=reports", "3") == ways["as a queue"]
    assert ("/jobs?arg=reports", None) == ways["in arguments"]
    assert ("/jobs?error=reports", None) == ways["in errors"]
    assert "in ids" not in ways  # no id begins with this text, so it is not a link
    assert "as a tag" not in ways
    for query, name, way in (
        ("tag=build", "as a task", ("/jobs?task=shop.reports.build", "3")),
        ("task=figures", "in errors", ("/jobs?error=figures", "1")),
        ("error=city:izmir", "as a tag", ("/jobs?tag=city%3Aizmir", "2")),
        # the path `city` of the argument is left out
        ("arg=city:reports", "as a queue", ("/jobs?queue=reports", "3")),
    ):
        assert way == offered(client, f"/jobs?{query}")[name]
    assert {} == offered(client, "/jobs?state=deleted")  # there is no text to search for elsewhere


def test_offered_search_counts_up_to_twenty(client, shop):
    """If there are more than twenty results, the number is shown as "20+"."""
    shop.enqueue_many([("oslo",)] * 25)

    assert ("/jobs?tag=city%3Aoslo", "20+") == offered(client, "/jobs?error=city:oslo")["as a tag"]
