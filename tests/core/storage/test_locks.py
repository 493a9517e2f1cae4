"""Distributed locks: waiting for them, renewing them while they are held, and detecting their loss."""

from __future__ import annotations

import asyncio
import math
import threading

import pytest

from firelock import Firelock
from firelock.errors import ConfigurationError, LockLost, LockTimeout, StorageError, StorageUnavailable
from firelock.storage.locks import Lock, LockKeeper
from tests.core.fakes import FailingStorage, Host, until


class Locks:
    """A lock provider in this process, whose renewals return what the test sets."""

    def __init__(self):
        self.held = {}
        self.fence = 0
        self.renewals = []
        self.releases = []
        self.answers = []
        self.refusal = None
        self.inside_renewal = lambda: None

    def acquire_lock(self, name, owner, ttl_seconds):
        if self.held.get(name, (owner,))[0] != owner:
            return None
        if name not in self.held:
            self.fence += 1
            self.held[name] = (owner, self.fence)
        return self.held[name][1]

    def renew_lock(self, name, owner, fence, ttl_seconds):
        self.renewals.append((name, fence, ttl_seconds))
        self.inside_renewal()
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return self.held.get(name) == (owner, fence)

    def release_lock(self, name, owner, fence):
        self.releases.append(name)
        if self.refusal is not None:
            raise self.refusal
        if self.held.get(name) != (owner, fence):
            return False
        del self.held[name]
        return True


@pytest.fixture
def locks():
    """Return a provider without held locks."""
    return Locks()


@pytest.fixture
def keeper():
    """Return a new keeper."""
    return LockKeeper()


@pytest.fixture
def make(locks, keeper):
    """Return a function that creates a lock, by default with the name "invoice:7"."""

    def make(name="invoice:7", timeout=0, ttl=1_000.0, slots=None):
        return Lock(locks, keeper, name, timeout=timeout, ttl=ttl, slots=slots)

    return make


# ---- holding ---------------------------------------------------------------------------------------------


def test_lock_is_held_within_its_block(locks, make):
    """Inside the block the lock has a token. After the block it is free."""
    with make() as lock:
        inside = (lock.fence, lock.lost, list(locks.held))

    assert (1, False, ["invoice:7"]) == inside
    assert ({}, False) == (locks.held, lock.lost)


def test_waiting_for_a_held_lock_times_out(make):
    """The error contains the name and the duration."""
    with (
        make(),
        pytest.raises(LockTimeout, match=r"'invoice:7' was not free within 0\.02 s"),
        make(timeout=0.02),
    ):
        raise AssertionError


def test_waiter_gets_the_lock_when_it_is_released(make):
    """A waiter in the same process gets a released lock immediately."""
    taken = threading.Event()

    def wait():
        with make(timeout=math.inf):
            taken.set()

    with make():
        waiter = threading.Thread(target=wait)
        waiter.start()
        was_taken = taken.is_set()
    waiter.join(10)

    assert (False, True) == (was_taken, taken.is_set())


def test_lock_object_is_not_reentrant(locks, make):
    """Entering a lock that the same object holds is refused, and the outer block keeps the lock."""
    lock = make()

    with lock:
        with pytest.raises(ConfigurationError, match="already held by this object; create a new lock"), lock:
            raise AssertionError
        held = list(locks.held)

    assert ["invoice:7"] == held
    assert {} == locks.held


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\0b", 7, None, b"a"])
def test_invalid_name_raises_an_error(make, name):
    """The message contains the name and the rule."""
    with pytest.raises(ConfigurationError, match=r"lock name must have 1 to 200 printable characters, got"):
        make(name=name)


@pytest.mark.parametrize(
    ("timeout", "ttl"),
    [
        *[(timeout, 30) for timeout in (-1, math.nan, True)],
        *[(5, ttl) for ttl in (0, math.nan, "30", 1e300)],
    ],
)
def test_invalid_durations_raise_an_error(make, timeout, ttl):
    """The message contains both durations and their valid ranges."""
    with pytest.raises(
        ConfigurationError, match=r"timeout must be at least 0 seconds, and its ttl from 0.001 s to 366 days"
    ):
        make(timeout=timeout, ttl=ttl)


# ---- renewal ---------------------------------------------------------------------------------------------


def test_held_lock_is_renewed(locks, make):
    """A lock is renewed after a third of its lifetime, but not after its block."""
    with make(ttl=0.6) as lock:
        until(lambda: len(locks.renewals) >= 3)
        was_lost = lock.lost

    assert not was_lost
    assert {("invoice:7", 1, 0.6)} == set(locks.renewals)


def test_renewing_thread_runs_while_locks_are_held(locks, make, our_threads):
    """No thread remains after the last lock, and a later lock starts a new one."""
    for _ in range(2):
        with make():
            held = len(our_threads("firelock-locks"))
        until(lambda: not our_threads("firelock-locks"))
        assert 1 == held


def test_several_locks_share_a_thread(locks, make):
    """Each lock is renewed at its own interval."""
    with make(ttl=0.6, name="a"), make(ttl=0.6, name="b"), make(ttl=1_000, name="c"):
        until(lambda: {"a", "b"} <= {name for name, _, _ in locks.renewals})

    assert "c" not in {name for name, _, _ in locks.renewals}


def test_failed_renewal_is_retried(locks, make, caplog):
    """If the provider is briefly unreachable, a lock that has not expired is kept."""
    locks.answers = [StorageUnavailable("down")]

    with make(ttl=1_000) as lock:
        first, second = lock.renew(), lock.renew()

    assert (True, True, False) == (first, second, lock.lost)
    assert "could not be renewed; retrying until it expires" in caplog.text


def test_exception_of_a_provider_does_not_affect_other_locks(locks, make):
    """The renewing thread continues, whatever a plugin's provider does."""
    locks.answers = [RuntimeError("a bug of a plugin")]

    with make(ttl=0.6):
        until(lambda: len(locks.renewals) >= 3)

    assert {} == locks.held


def test_lock_that_cannot_be_renewed_is_lost(locks, make):
    """When its lifetime ends without a renewal, it counts as lost, and leaving the block raises an error."""
    lock = make(ttl=0.03)
    lock.__enter__()
    locks.answers = [StorageUnavailable("down")] * 1_000
    del locks.held["invoice:7"]

    until(lambda: lock.lost)

    with pytest.raises(LockLost, match=r"Lock 'invoice:7' \(fence 1\) was lost before the end of its block"):
        lock.__exit__(None, None, None)
    assert lock.lost


def test_lock_is_lost_if_a_suspension_exceeds_its_lifetime(locks, keeper):
    """The storage's clock continues during a suspension, so another process may hold the lock."""
    host = Host()
    lock = Lock(locks, keeper, "invoice:7", timeout=0, ttl=1_000.0, elapsed=host.clocks.elapsed)
    seen = []
    with lock:
        for _ in range(2):
            host.suspend(600)
            seen.append(lock.lost)

    assert [False, True] == seen


def test_lock_is_lost_if_its_renewal_is_refused(locks, make):
    """A refused renewal marks the lock as lost immediately, and is not repeated."""
    lock = make(ttl=1.0)  # refused long before it expires
    lock.__enter__()
    locks.held["invoice:7"] = ("somebody", 2)

    until(lambda: lock.lost)
    renewals = len(locks.renewals)

    with pytest.raises(LockLost):
        lock.__exit__(None, None, None)
    assert renewals == len(locks.renewals)
    assert {"invoice:7": ("somebody", 2)} == locks.held


def test_exception_of_the_block_takes_precedence_over_a_lost_lock(locks, make):
    """The caller gets the first error."""

    def work():
        with make() as lock:
            locks.held.clear()
            lock.renew()
            raise KeyError

    with pytest.raises(KeyError):
        work()


def test_renewal_refused_after_the_release_is_not_a_loss(locks, make, our_threads):
    """If a renewal reaches the provider after the release, it is refused, but the lock was not lost."""
    lock, began, left = make(ttl=1.0), threading.Event(), threading.Event()

    def late():
        began.set()
        left.wait(10)

    locks.inside_renewal = late
    with lock:
        began.wait(10)
    left.set()
    until(lambda: not our_threads("firelock-locks"))

    assert not lock.lost


def test_renewal_refused_during_the_release_is_not_a_loss(locks, make):
    """The result of the release shows that the lock was held until then."""
    lock = make()
    release = locks.release_lock

    def release_then_renew(*args):
        answer = release(*args)
        lock.renew()
        return answer

    locks.release_lock = release_then_renew
    with lock:
        pass

    assert not lock.lost


def test_failed_release_raises_an_error(locks, make):
    """If a block ends during an outage, the caller gets an error, because the lock stays until it expires."""
    locks.refusal = StorageUnavailable("down")

    with pytest.raises(StorageUnavailable), make():
        pass


def test_failed_release_does_not_hide_the_exception_of_the_block(locks, make, caplog):
    """The block's own exception is raised, and the failed release is logged."""
    locks.refusal = StorageError("refused")

    with pytest.raises(KeyError), make():
        raise KeyError

    assert "Lock 'invoice:7' could not be released; it expires within 1000 s" in caplog.text


# ---- coroutines ------------------------------------------------------------------------------------------


def test_many_coroutines_can_wait_for_a_lock(make):
    """Waiting coroutines do not occupy the threads that a release needs, even if there are many of them."""
    inside, most = 0, 0

    async def work():
        nonlocal inside, most
        async with make(timeout=60):
            inside += 1
            most = max(most, inside)
            await asyncio.to_thread(lambda: None)
            inside -= 1

    async def all_of_them():
        await asyncio.gather(*(work() for _ in range(100)))

    asyncio.run(all_of_them())

    assert (1, 0) == (most, inside)


def test_cancelled_wait_does_not_acquire_the_lock(locks, make):
    """A coroutine that is cancelled while it waits does not get the lock later."""

    async def work(lock):
        async with lock:
            raise AssertionError

    async def give_up():
        waiting = asyncio.create_task(work(make(timeout=60)))
        done, _ = await asyncio.wait([waiting], timeout=0.02)
        waiting.cancel()
        await asyncio.wait([waiting])
        return done, waiting.cancelled()

    with make():
        answer = asyncio.run(give_up())
    held = dict(locks.held)

    assert ((set(), True), {}) == (answer, held)


@pytest.mark.parametrize("refusal", [None, StorageUnavailable("down")])
def test_lock_granted_after_the_cancellation_is_released(locks, make, refusal):
    """A pending request may still get the lock after its coroutine was cancelled.

    The lock is then released.
    """
    requested, answer = threading.Event(), threading.Event()
    acquire, locks.refusal = locks.acquire_lock, refusal

    def slow(*args):
        requested.set()
        answer.wait(10)
        return acquire(*args)

    locks.acquire_lock = slow

    async def give_up():
        entering = asyncio.create_task(make().__aenter__())
        await asyncio.to_thread(requested.wait, 10)
        entering.cancel()
        await asyncio.wait([entering])
        answer.set()

    asyncio.run(give_up())
    until(lambda: locks.releases)

    assert locks.held == {} or refusal


def test_lock_granted_just_before_the_cancellation_is_released(locks, make):
    """A cancellation may occur between the grant and its delivery to the coroutine. The lock is released."""

    async def give_up():
        loop, is_delivered = asyncio.get_running_loop(), threading.Event()
        call_soon = loop.call_soon_threadsafe

        def deliver(*args, **kwargs):
            call_soon(*args, **kwargs)
            is_delivered.set()

        loop.call_soon_threadsafe = deliver  # a thread uses this to deliver the result
        entering = asyncio.create_task(make().__aenter__())
        await asyncio.wait([entering], timeout=0)
        assert is_delivered.wait(10)
        entering.cancel()
        await asyncio.wait([entering])
        return entering.cancelled()

    was_cancelled = asyncio.run(give_up())
    until(lambda: locks.releases)

    assert (True, {}) == (was_cancelled, locks.held)


# ---- slots -----------------------------------------------------------------------------------------------


def test_number_of_holders_is_the_number_of_slots(locks, make):
    """Each holder has its own slot, numbered from 0.

    The next caller waits for the first slot that becomes free.
    """
    first, second, third = (make("gpu", slots=2, timeout=0) for _ in range(3))

    with first, second:
        slots = {first.slot, second.slot}
        with pytest.raises(LockTimeout, match="None of the 2 slots of lock 'gpu' was free within 0 s"), third:
            pass
        held = set(locks.held)
        left = first.slot
        first.__exit__(None)
        with third:
            assert left == third.slot
        first.__enter__()

    assert ({0, 1}, {"gpu#0", "gpu#1"}, {}) == (slots, held, locks.held)


def test_slot_is_renewed_and_lost_like_a_lock(locks, make):
    """The provider uses the slot's own name, and the other slots are not affected."""
    lock = make("gpu", slots=1, ttl=0.03)

    lock.__enter__()
    until(lambda: locks.renewals)
    locks.held["gpu#0"] = ("another", 99)
    until(lambda: lock.lost)
    with pytest.raises(LockLost, match="Lock 'gpu'"):
        lock.__exit__(None)

    assert "gpu#0" == locks.renewals[0][0]


def test_lock_with_one_slot_differs_from_a_lock_without_slots(locks, make):
    """A lock with one slot is numbered like other slots, so that the number of slots can grow."""
    with make("gpu", slots=1) as lock:
        assert (["gpu#0"], 0) == (list(locks.held), lock.slot)


def test_waiter_checks_every_slot(locks, make):
    """One check costs only a few round trips, however many slots there are. The slots are checked in turn."""
    holders = [make("gpu", slots=30).__enter__() for _ in range(30)]
    waiting, got = make("gpu", slots=30, timeout=20), []
    thread = threading.Thread(target=lambda: got.append(waiting.__enter__().slot))
    thread.start()

    holders[17].__exit__(None)
    thread.join(20)

    assert [holders[17].slot] == got


def test_coroutines_share_slots():
    """Coroutines share slots in the same way as threads."""

    async def run():
        running, most = 0, 0

        async def work():
            nonlocal running, most
            async with fire.alock("gpu", slots=3, timeout=20):
                running += 1
                most = max(most, running)
                await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0)
                running -= 1

        await asyncio.gather(*(work() for _ in range(12)))
        return most

    with Firelock("memory://") as fire:
        assert 3 >= asyncio.run(run())


@pytest.mark.parametrize("slots", [0, -1, 1_001, True, 1.5, "2"], ids=repr)
def test_invalid_number_of_slots_raises_an_error(make, slots):
    """The message contains the value and the valid range."""
    with pytest.raises(ConfigurationError, match="from 1 to 1,000"):
        make("gpu", slots=slots)


def test_name_too_long_for_a_slot_number_raises_an_error(make):
    """The names of its slots would be too long."""
    with pytest.raises(ConfigurationError, match="too long for a lock with slots"):
        make("x" * 199, slots=2)


@pytest.mark.parametrize(("other", "words"), [(3, "with slots=3"), (None, "without slots")])
def test_different_numbers_of_slots_for_one_name_are_refused(other, words):
    """If two numbers were in use, there could be more holders than either number allows."""
    with Firelock("memory://") as fire:
        fire.lock("gpu", slots=2)
        fire.lock("gpu", slots=2)

        with pytest.raises(ConfigurationError, match=words):
            fire.lock("gpu", slots=other)
        fire.lock("other", slots=3)


# ---- locks of an app -------------------------------------------------------------------------------------


def test_lock_of_an_app_is_a_lock_of_its_storage():
    """`fire.lock` and `fire.alock` are the same lock in the storage."""

    async def work(fire):
        async with fire.alock("invoice:7", timeout=0):
            return True

    with Firelock("memory://") as fire:
        with fire.lock("invoice:7") as lock, pytest.raises(LockTimeout):
            asyncio.run(work(fire))

        assert (1, True) == (lock.fence, asyncio.run(work(fire)))


def test_unreachable_storage_is_reported_while_waiting():
    """An outage is not reported as a timeout, because it is temporary."""
    storage = FailingStorage()
    storage.fail("acquire_lock", StorageUnavailable("down"))

    with Firelock(storage) as fire, pytest.raises(StorageUnavailable), fire.lock("invoice:7"):
        raise AssertionError
