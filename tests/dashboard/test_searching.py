"""Searches where a storage's filter says less than is asked: bounded, and gone on with where they ended."""

from __future__ import annotations

from itertools import count

import pytest

from firelock.storage import JobFilter
from firelock_dashboard.filters import Plan
from firelock_dashboard.icons import icon
from firelock_dashboard.searching import find_page


@pytest.fixture
def made(fire):
    """The ids of some jobs, newest first."""

    @fire.task(name="shop.send")
    def send(number: int) -> None:
        """Send it."""

    return [job.id for job in send.enqueue_many([(number,) for number in range(350)])][::-1]


@pytest.mark.parametrize("seconds", [1, 2, 3])
def test_a_search_ends_in_the_middle_of_what_a_storage_gave(fire, made, seconds):
    """Its time is over after each hundred jobs; the next page sees what was not looked at."""
    seen: list[str] = []
    plan = Plan(JobFilter(), (lambda job: bool(seen.append(job.id)),))

    found = find_page(fire, plan, limit=25, cursor=None, seconds=seconds, monotonic=_ticks())
    while found.cursor is not None:
        assert (True, 100 * seconds) == (found.is_cut, found.looked_at)
        found = find_page(fire, plan, limit=25, cursor=found.cursor, seconds=seconds, monotonic=_ticks())

    assert made == seen


def test_a_page_is_not_cut_where_every_job_is_meant(fire, made):
    """There is nothing to search for: a slow storage gives whole pages all the same."""
    found = find_page(fire, Plan(JobFilter()), limit=25, cursor=None, seconds=0, monotonic=_ticks())

    assert made[:25] == [job.id for job in found.jobs]
    assert not found.is_cut


def test_an_ornament_is_drawn_once():
    """A list of jobs shows hundreds of a few; an icon that says something is drawn for what it says."""
    assert icon("next") is icon("next")
    assert "&lt;b&gt;" in icon("next", label="<b>")


def _ticks():
    ticks = count()
    return lambda: next(ticks)
