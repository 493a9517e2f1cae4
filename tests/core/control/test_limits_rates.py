"""A changed rate applies immediately, even if the previous rate was used up."""

from __future__ import annotations

import pytest

from firelock import Firelock, Limit
from firelock.storage import ClaimRequest, NewSession

DAY = 86_400


def claimed(fire):
    """Return the number of jobs that a session can claim now."""
    storage = fire.storage
    storage.begin_session(NewSession("one", "one", "web-1", "host", 7, 0, 3_600.0, 10))
    return len(storage.claim(ClaimRequest(None, 10, "one", storage.clock())).jobs)


@pytest.mark.parametrize("settings", [{"rate": 1_000, "per": 1.0}, {"rate": None, "concurrent": 100}])
@pytest.mark.parametrize("of", ["mail/out", "mail:7/out"])
def test_changed_rate_applies_to_keys_that_used_up_the_previous_rate(settings, of):
    """The rate of a name or of a single key can be raised or removed."""
    with Firelock("memory://") as fire:

        @fire.task(name="shop.send", limits=[Limit("mail:{user_id}/out", rate=1, per=DAY)])
        def send(user_id: int) -> None: ...

        fire.limits.sync()
        send.enqueue_many([(7,), (7,), (7,)])
        before = claimed(fire), claimed(fire)
        fire.limits.set(of, **settings)

        assert (1, 0) == before
        assert 2 == claimed(fire)
