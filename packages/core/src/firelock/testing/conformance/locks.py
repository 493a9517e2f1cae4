"""Locks: one holder at a time, and a token that tells a late holder from the present one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import pytest

from firelock.ids import new_id
from firelock.locks import LockProvider
from firelock.testing.conformance.handles import SECOND
from firelock.testing.conformance.kit import REPORTED, Conformance
from firelock.testing.conformance.race import ROUNDS, race
from firelock.testing.movable_clock import movable

__all__ = ["LockConformance", "LockDuty", "LockHandles"]

_TTL = 3_600.0


class LockHandles(Protocol):
    """Handles of one keeper of locks, moved through time together."""

    @property
    def first(self) -> LockProvider:
        """The handle that most tests use."""
        ...

    def open(self) -> LockProvider:
        """Return another handle of the same locks."""
        ...

    def advance(self, seconds: float) -> None:
        """It is that much later for every handle."""
        ...


class LockDuty(Conformance):
    """What `acquire_lock`, `renew_lock` and `release_lock` promise."""

    verbs = "acquire_lock renew_lock release_lock"

    @pytest.fixture
    def name(self) -> str:
        """Return the name of a lock that nobody has held."""
        return f"lock:{new_id()}"

    def test_a_free_lock_is_acquired(self, locks: LockHandles, name: str) -> None:
        """A lock nobody holds is given with a positive token.

        If this fails: nothing that needs a lock ever runs.
        """
        fence = locks.first.acquire_lock(name, "ada", _TTL)

        assert fence is not None
        assert fence > 0

    def test_a_held_lock_is_refused(self, locks: LockHandles, name: str) -> None:
        """While one owner holds a lock, another gets None, through whatever handle.

        If this fails: two do at once what only one may do.
        """
        locks.first.acquire_lock(name, "ada", _TTL)

        answers = [locks.first.acquire_lock(name, "bob", _TTL), locks.open().acquire_lock(name, "bob", _TTL)]

        assert [None, None] == answers

    def test_names_are_apart(self, locks: LockHandles, name: str) -> None:
        """Each name is a lock of its own.

        If this fails: unrelated work waits for each other.
        """
        locks.first.acquire_lock(name, "ada", _TTL)

        assert locks.first.acquire_lock(name + "2", "bob", _TTL) is not None

    def test_a_released_lock_is_free(self, locks: LockHandles, name: str) -> None:
        """After its release a lock is given to another, with a larger token.

        If this fails: locks are held for ever, or an old token passes for the present one.
        """
        first = _acquired(locks, name, "ada")

        released = locks.first.release_lock(name, "ada", first)

        assert released
        assert _acquired(locks, name, "bob") > first

    def test_a_token_grows_after_a_release_by_the_same_owner(self, locks: LockHandles, name: str) -> None:
        """The same owner that locks again gets a larger token.

        If this fails: work of the first time passes for work of the second.
        """
        fences = []
        for _ in range(4):
            fences.append(_acquired(locks, name, "ada"))
            locks.first.release_lock(name, "ada", fences[-1])

        assert sorted(set(fences)) == fences

    def test_an_expired_lock_is_free(self, locks: LockHandles, name: str) -> None:
        """A lock whose life ended is given to another, with a larger token.

        If this fails: the lock of a process that died blocks everybody.
        """
        first = _acquired(locks, name, "ada")
        locks.advance(2 * _TTL)

        second = locks.first.acquire_lock(name, "bob", _TTL)

        assert second is not None
        assert second > first

    def test_a_token_grows_after_expiry_by_the_same_owner(self, locks: LockHandles, name: str) -> None:
        """An owner whose lock expired gets a new token: somebody may have held it in between.

        If this fails: an owner that slept cannot be told from one that held on.
        """
        first = _acquired(locks, name, "ada")
        locks.advance(2 * _TTL)

        assert _acquired(locks, name, "ada") > first

    def test_the_holder_gets_its_own_token_again(self, locks: LockHandles, name: str) -> None:
        """An owner that asks again while it holds the lock gets the same token and a new life.

        If this fails: an acquire that is sent again after a lost reply locks its sender out.
        """
        first = _acquired(locks, name, "ada")
        locks.advance(0.75 * _TTL)

        second = _acquired(locks, name, "ada")
        locks.advance(0.75 * _TTL)

        assert first == second
        assert locks.first.acquire_lock(name, "bob", _TTL) is None

    def test_a_renewal_gives_a_life_from_now(self, locks: LockHandles, name: str) -> None:
        """A renewed lock lives for the given time from now.

        If this fails: a lock that is still held is given away.
        """
        fence = _acquired(locks, name, "ada")
        locks.advance(0.75 * _TTL)

        renewed = locks.first.renew_lock(name, "ada", fence, _TTL)
        locks.advance(0.75 * _TTL)

        assert renewed
        assert locks.first.acquire_lock(name, "bob", _TTL) is None
        locks.advance(_TTL)
        assert locks.first.acquire_lock(name, "bob", _TTL) is not None

    def test_a_lost_lock_is_not_renewed(self, locks: LockHandles, name: str) -> None:
        """A renewal after expiry answers False, whether or not another has the lock by now.

        If this fails: a holder that slept takes the lock back from its successor.
        """
        fence = _acquired(locks, name, "ada")
        locks.advance(2 * _TTL)

        before_the_successor = locks.first.renew_lock(name, "ada", fence, _TTL)
        successor = _acquired(locks, name, "bob")
        after_it = locks.first.renew_lock(name, "ada", fence, _TTL)

        assert (False, False) == (before_the_successor, after_it)
        assert locks.first.renew_lock(name, "bob", successor, _TTL)

    def test_a_stale_token_is_refused(self, locks: LockHandles, name: str) -> None:
        """An owner with an old token neither renews nor releases its own later lock.

        If this fails: a late release frees what somebody relies on.
        """
        stale = _acquired(locks, name, "ada")
        locks.first.release_lock(name, "ada", stale)
        fence = _acquired(locks, name, "ada")

        answers = [
            locks.first.renew_lock(name, "ada", stale, _TTL),
            locks.first.release_lock(name, "ada", stale),
            locks.first.release_lock(name, "ada", fence + 1),
        ]

        assert [False, False, False] == answers
        assert locks.first.acquire_lock(name, "bob", _TTL) is None

    def test_another_owner_is_refused(self, locks: LockHandles, name: str) -> None:
        """The right token in other hands neither renews nor releases.

        If this fails: anybody who guesses a number frees the lock.
        """
        fence = _acquired(locks, name, "ada")

        answers = [
            locks.first.renew_lock(name, "bob", fence, _TTL), locks.first.release_lock(name, "bob", fence),
        ]  # fmt: skip

        assert [False, False] == answers
        assert locks.first.acquire_lock(name, "bob", _TTL) is None

    def test_what_nobody_holds_is_neither_renewed_nor_released(self, locks: LockHandles, name: str) -> None:
        """Renewing or releasing a lock that is free, or was never held, answers False and leaves it free.

        If this fails: a second release, or a late renewal, locks everybody out.
        """
        fence = _acquired(locks, name, "ada")
        locks.first.release_lock(name, "ada", fence)

        answers = [
            locks.first.release_lock(name, "ada", fence),
            locks.first.renew_lock(name, "ada", fence, _TTL),
            locks.first.release_lock(name + "never", "ada", 1),
            locks.first.renew_lock(name + "never", "ada", 1, _TTL),
        ]

        assert [False] * 4 == answers
        assert locks.first.acquire_lock(name, "bob", _TTL) is not None
        assert locks.first.acquire_lock(name + "never", "bob", _TTL) is not None

    def test_one_of_eight_gets_the_lock(self, locks: LockHandles, name: str) -> None:
        """Of eight that ask at once exactly one is answered with a token; tokens of the rounds grow.

        If this fails: the lock does not exclude.
        """
        handles = [locks.open() for _ in range(8)]
        tokens: list[int] = []

        for _ in range(ROUNDS):
            answers = race(
                [
                    partial(handle.acquire_lock, name, f"owner {place}", _TTL)
                    for place, handle in enumerate(handles)
                ]
            )
            ((winner, token),) = [(place, one) for place, one in enumerate(answers) if one is not None]
            tokens.append(token)
            assert locks.first.release_lock(name, f"owner {winner}", token)

        assert sorted(set(tokens)) == tokens

    def test_one_of_eight_gets_what_expired(self, locks: LockHandles, name: str) -> None:
        """Of eight that find an expired lock exactly one gets it.

        If this fails: the death of a holder makes two new ones.
        """
        handles = [locks.open() for _ in range(8)]
        first = _acquired(locks, name, "ada")
        locks.advance(2 * _TTL)

        answers = race(
            [
                partial(handle.acquire_lock, name, f"owner {place}", _TTL)
                for place, handle in enumerate(handles)
            ]
        )

        (token,) = [one for one in answers if one is not None]
        assert token > first


def _acquired(locks: LockHandles, name: str, owner: str) -> int:
    fence = locks.first.acquire_lock(name, owner, _TTL)
    assert fence is not None, f"{owner} did not get the lock"
    return fence


class _Providers:
    """Handles of a provider, opened as often as a test asks."""

    def __init__(self, open_provider: Callable[[], LockProvider]) -> None:
        self._open_provider = open_provider
        self._opened: list[LockProvider] = []
        self._offset = 0
        self.first = self.open()

    def open(self) -> LockProvider:
        provider = self._open_provider()
        self._opened.append(provider)
        self._move(provider)
        return provider

    def advance(self, seconds: float) -> None:
        self._offset += int(seconds * SECOND)
        for provider in self._opened:
            self._move(provider)

    def _move(self, provider: LockProvider) -> None:
        movable(provider).clock_offset = self._offset

    def close(self) -> None:
        for provider in self._opened:
            close = getattr(provider, "close", None)
            if close is not None:
                close()


def _open_locks(url: str) -> LockProvider:
    """Return the lock provider of a URL, or the storage of it, which keeps locks as well."""
    from firelock.errors import UnknownScheme
    from firelock.plugins import Plugins

    plugins = Plugins()
    try:
        return plugins.open_locks(url)
    except UnknownScheme:
        return plugins.open_storage(url)


class LockConformance(LockDuty):
    """Give `lock_url`: where locks may be taken that nobody else wants.

    A provider without a URL gives `open_provider` instead. Every handle opened has to reach the same locks,
    as several processes would.
    """

    @pytest.fixture
    def lock_url(self) -> str:
        """Return the URL of the lock provider."""
        message = f"{type(self).__name__} has to define the fixture lock_url."
        raise NotImplementedError(message)

    @pytest.fixture
    def open_provider(self, lock_url: str) -> Callable[[], LockProvider]:
        """Return a function that opens one more handle of the provider."""
        return partial(_open_locks, lock_url)

    @pytest.fixture
    def locks(
        self, open_provider: Callable[[], LockProvider], request: pytest.FixtureRequest
    ) -> Iterator[LockHandles]:
        """Yield the test's handles."""
        providers = _Providers(open_provider)
        try:
            request.node.user_properties.append((REPORTED, type(providers.first).__name__))
            yield providers
        finally:
            providers.close()
