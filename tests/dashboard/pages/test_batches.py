"""The list of batches: its pages, and its filters by state and by name."""

from __future__ import annotations

import re

import pytest

from firelock.storage import State
from tests.dashboard.flows import add, claim, end, new_batch
from tests.dashboard.pages.test_batch import text_of


def names(page):
    """Return the names of the batches on a page, from top to bottom."""
    return re.findall(r'<tr id="batch-.*?<span class="strong">(.*?)</span>', page.text, re.DOTALL)


@pytest.fixture
def batches(fire):
    """A failed batch, an open one, and one without members."""
    failed = new_batch(fire, "import of monday")
    add(fire, failed)
    for job in claim(fire):
        end(fire, job, State.FAILED)
    add(fire, new_batch(fire, "import of tuesday"))
    add(fire, new_batch(fire, "letters"))


@pytest.mark.usefixtures("batches")
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["letters", "import of tuesday", "import of monday"]),
        ("?state=open", ["letters", "import of tuesday"]),
        ("?state=failed", ["import of monday"]),
        ("?q=IMPORT", ["import of tuesday", "import of monday"]),
        ("?q=import&state=open", ["import of tuesday"]),
        ("?q=nobody", []),
    ],
)
def test_batches_are_listed(client, query, found):
    page = client.get(f"/batches{query}")
    assert page.status == 200
    assert found == names(page)


@pytest.mark.usefixtures("batches")
def test_batch_rows_show_progress(client):
    page = client.get("/batches?state=failed")
    assert "import of monday Failed 1 / 1 1 0" in text_of(page.text)


def test_batch_page_has_fifty_rows_and_a_next_link(fire, client):
    for number in range(51):
        add(fire, new_batch(fire, f"number {number}"))
    first = client.get("/batches")
    assert len(names(first)) == 50

    older = re.search(r'href="([^"]+)" rel="next"', first.text)[1].replace("&amp;", "&")
    last = client.get(older.partition("/jobs-admin")[2] or older)

    assert names(last) == ["number 0"]
    assert 'rel="next"' not in last.text


def test_empty_batch_list_explains_how_to_create_one(client):
    assert "fire.batch(" in client.get("/batches").text


def test_unknown_batch_state_is_refused(client):
    assert client.get("/batches?state=lost").status == 400


def test_hostile_batch_name_is_shown_literally(fire, client, hostile):
    add(fire, new_batch(fire, hostile))
    page = client.get("/batches").text
    assert hostile not in page or not set(hostile) & set("<>&\"'")


def test_inner_batch_row_names_its_outer_batch(fire, client):
    """An inner batch is listed with the name of its outer batch."""
    outer = new_batch(fire, "year")
    inner = new_batch(fire, "january", outer=outer)
    add(fire, inner)

    page = client.get("/batches").text

    rows = {id: text_of(row) for id, row in re.findall(r'<tr id="batch-([^"]+)"(.*?)</tr>', page, re.DOTALL)}
    assert "january in year" in rows[inner]
    assert " in " not in rows[outer]
    assert "0 / 1 1 is a batch" in rows[outer]
