"""How often batches are released while their members end."""

from __future__ import annotations

import attrs
import pytest

from firelock.server.batch_releases import OFTEN, RAREST, SELDOM, BatchReleases
from firelock.storage import BatchCounts


@attrs.define
class Batches:
    """A storage's responses about batches."""

    active: dict[str, int]
    released: int = 1  # number of batches and jobs that a release changes
    counted: int = 0  # number of times that the remaining members were read
    now: float = 1.0  # seconds; only a release advances it
    takes: float = 0.0  # duration of a release

    def release(self, limit):
        """Return the number of released batches."""
        self.now += self.takes
        return min(limit, self.released)

    def batch_counts(self, batch_ids):
        """Return the counts of the batches."""
        self.counted += 1
        return [BatchCounts(active=self.active[id]) if id in self.active else None for id in batch_ids]


def _rests(storage, *ended, have_failed=False):
    """Return the pause after each release of batches with ended members."""
    releases = BatchReleases(storage, lambda: storage.now)
    rests = []
    for batches in ended:
        releases.record_ends(batches, have_failed=have_failed)
        releases.release()
        rests.append(releases.rest)
    return rests


@pytest.mark.parametrize(("takes", "rest"), [(0.0003, OFTEN), (0.003, 0.036), (0.150, SELDOM)])
def test_pause_grows_with_the_duration_of_a_release(takes, rest):
    """If a release takes 3 ms, 50 releases per second would take up a seventh of the time."""
    assert [pytest.approx(rest)] == _rests(Batches({}, takes=takes), {"a"})


@pytest.mark.parametrize(("left", "rest"), [(100_000, RAREST), (2_000, 0.1), (100, OFTEN), (0, OFTEN)])
def test_pause_grows_with_the_number_of_remaining_members(left, rest):
    """The last release follows soon after the last member, however large the batch is."""
    first, second = _rests(Batches({"a": left}), {"a"}, {"a"})

    assert (pytest.approx(OFTEN), pytest.approx(rest)) == (first, second)


def test_pause_is_short_if_few_members_remain():
    """If few members remain, few releases follow, because the batch ends soon or its members rarely end."""
    assert [pytest.approx(SELDOM), pytest.approx(OFTEN)] == _rests(
        Batches({"a": 100}, takes=0.1), {"a"}, {"a"}
    )


def test_pause_depends_on_the_batch_with_the_fewest_members():
    """A batch that does not exist has no remaining members."""
    assert pytest.approx(OFTEN) == _rests(Batches({"a": 100_000, "b": 20}), {"a", "b"}, {"a", "b"})[-1]
    assert pytest.approx(RAREST) == _rests(Batches({"a": 100_000}), {"a", "b"}, {"a", "b"})[-1]


@pytest.mark.parametrize(
    ("released", "ended", "have_failed"),
    [
        pytest.param(2, {"a"}, False, id="continuations were set free as well"),
        pytest.param(1_000, {"a"}, False, id="there may be more"),
        pytest.param(1, {"a"}, True, id="a failure may stop the others"),
        pytest.param(9, set("abcdefghi"), False, id="many batches at a time"),
    ],
)
def test_pause_is_short_if_a_release_may_start_other_jobs(released, ended, have_failed):
    """The pause is short regardless of the number of remaining members, which is not read."""
    storage = Batches(dict.fromkeys(ended, 100_000), released)

    rests = _rests(storage, ended, ended, ended, have_failed=have_failed)

    assert [pytest.approx(OFTEN)] * 3 == rests
    assert storage.counted == 0


def test_remaining_members_of_a_new_batch_are_not_counted():
    """For small batches, the storage is called only for their releases."""
    storage = Batches({"a": 5, "b": 5})

    _rests(storage, {"a"}, {"b"}, {"a"}, {"b"})

    assert storage.counted == 0


def test_first_release_is_immediate_and_later_ones_follow_a_pause():
    """A failure is not delayed by a long pause. If a release was incomplete, another one is due."""
    storage = Batches({"a": 100_000})
    releases = BatchReleases(storage, lambda: storage.now)

    def due_after(seconds, *, have_failed=False):
        releases.record_ends({"a"}, have_failed=have_failed)
        storage.now += seconds
        return releases.is_due()

    nobody = releases.is_due()
    first = due_after(0.0)
    releases.release()
    second = due_after(0.019), due_after(0.002)
    releases.release()
    third = due_after(0.2), due_after(0.06)
    releases.release()
    failed = due_after(0.019, have_failed=True), due_after(0.002)
    storage.released = 1_000
    releases.release()
    more = releases.is_needed

    assert (False, True, (False, True), (False, True), (False, True), True) == (
        nobody, first, second, third, failed, more
    )  # fmt: skip
