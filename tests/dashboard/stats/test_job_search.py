"""Searches that the storage's filter covers only in part: they are bounded, and continue where they ended."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import pytest

from firelock import JobPage
from firelock.storage import JobFilter
from firelock_dashboard.stats.job_search import SearchPlan, count_up_to, find_page
from firelock_dashboard.web.icons import icon


@pytest.fixture
def job_ids(fire):
    """The ids of some jobs, newest first."""

    @fire.task(name="shop.send")
    def send(number: int) -> None:
        """Send it."""

    return [job.id for job in send.enqueue_many([(number,) for number in range(350)])][::-1]


@pytest.mark.parametrize("hundreds", [1, 2, 3])
def test_search_continues_in_the_middle_of_a_storage_page(fire, job_ids, hundreds):
    """The next page starts with the first job that was not examined.

    In this test, the time for a search ends after one, two or three hundred jobs.
    """
    seen: list[str] = []
    # one tick passes when the search begins
    seconds = hundreds + 1
    plan = SearchPlan(JobFilter(), (lambda job: bool(seen.append(job.id)),))

    found = find_page(fire, plan, limit=25, cursor=None, seconds=seconds, monotonic=_ticks())
    while found.cursor is not None:
        assert (True, 100 * hundreds) == (found.is_cut, found.examined)
        found = find_page(fire, plan, limit=25, cursor=found.cursor, seconds=seconds, monotonic=_ticks())

    assert job_ids == seen


def test_search_continues_after_the_end_of_a_storage_page(fire, job_ids):
    """A search may stop at the last job of a storage page.

    The next part of the search then continues with the following storage page, however little time is left.
    """
    for _ in range(250):
        fire.jobs.copy(job_ids[0])
    plan = SearchPlan(JobFilter(), (lambda _: False,))
    found = find_page(fire, plan, limit=25, cursor=None, seconds=6, monotonic=_ticks())

    rest = find_page(fire, plan, limit=25, cursor=found.cursor, seconds=0, monotonic=_ticks())

    assert (500, True) == (found.examined, found.is_cut)
    assert 100 == rest.examined


def test_page_without_conditions_is_always_full(fire, job_ids):
    """If every job matches, no search is needed, so even a slow storage returns full pages."""
    found = find_page(fire, SearchPlan(JobFilter()), limit=25, cursor=None, seconds=0, monotonic=_ticks())

    assert job_ids[:25] == [job.id for job in found.jobs]
    assert not found.is_cut


@pytest.mark.parametrize(("each", "reads"), [(0.011, 5), (0.025, 2), (0.04, 1), (0.5, 1)])
def test_search_starts_no_read_that_would_exceed_its_time(each, reads):
    """If a read takes 40 ms and finds nothing, it is not repeated within the limit of 60 ms.

    A faster read is repeated.
    """
    clock = Clock()
    pages = Pages(clock, each)

    found = find_page(
        pages.fire, SearchPlan(JobFilter()), limit=25, cursor=None, seconds=0.06, monotonic=clock
    )

    assert (reads, True, "further") == (pages.reads, found.is_cut, found.cursor)
    assert (0, False) == count_up_to(
        Pages(clock, each).fire, SearchPlan(JobFilter()), seconds=0.06, monotonic=clock
    )


def test_icon_is_rendered_once():
    """A list of jobs contains the same few icons hundreds of times.

    An icon with a label is rendered separately for this label.
    """
    assert icon("next") is icon("next")
    assert "&lt;b&gt;" in icon("next", label="<b>")


class Clock:
    """A clock that only moves when the test moves it."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now / 1_000


class Pages:
    """An app whose storage finds no jobs on any page and takes a fixed time per page."""

    def __init__(self, clock, each):
        self.reads = 0
        self._clock = clock
        self._each = each
        self.fire = SimpleNamespace(jobs=self)

    def page(self, where, **options):
        self.reads += 1
        self._clock.now += round(self._each * 1_000)
        return JobPage([], "further")


def _ticks():
    ticks = count()
    return lambda: next(ticks)
