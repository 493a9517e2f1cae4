"""Mutants of the Lua scripts for Redis, with the test that catches each.

Run `python -m tests.conformance.lua_mutants`. Each mutant runs on a server, whose storage then uses the
changed script.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import firelock_redis.scripts as home
from firelock.plugins.loader import open_storage
from firelock.testing import StorageConformance
from tests.conformance.mutants import Subject, cases, fails, mutated, mutations
from tests.redis.programs import chosen_programs
from tests.redis.servers import RedisServer

_TABLE = Path(__file__).with_name("lua_mutations.txt")


@contextmanager
def _changed(mutation):
    """Send the scripts with the mutation in one of them."""
    originals = home.TEXTS
    home.TEXTS = {**originals, mutation.module: mutated(originals[mutation.module], mutation)}
    home.script.cache_clear()
    try:
        yield
    finally:
        home.TEXTS = originals
        home.script.cache_clear()


def lua_mutations():
    """Return the mutations of the table, in order."""
    return mutations(_TABLE)


def script_of(mutation):
    """Return the file that the mutation changes."""
    name = f"{mutation.module}.lua"
    whole = files(home) / name
    return whole if whole.is_file() else files(home) / "functions" / name


def lua_catcher(mutation, url, *, rounds=1):
    """Return the first test of the mutant's part of the kit that fails with the mutant; None if all pass."""
    mutated(script_of(mutation).read_text("utf-8"), mutation)  # fails if the text to change does not exist
    subject = Subject(lambda: open_storage(url))
    with _changed(mutation):
        tried = (case for _ in range(rounds) for case in cases(mutation.detected_by, StorageConformance))
        return next((case for case in tried if fails(case, subject)), None)


def main(arguments):
    """Print each mutant with the test that catches it; arguments select mutants by words of their names."""
    wrong = 0
    tried = [one for one in lua_mutations() if all(word in one.name for word in arguments)]
    with RedisServer(chosen_programs()[0].values[0]) as server:
        for mutation in tried:
            server.empty()
            case = lua_catcher(mutation, server.url())
            wrong += case is None
            caught_by = f"{case.part}: {case.name}" if case else "NOBODY"
            sys.stdout.write(f"{mutation.module}: {mutation.name}  ←  {caught_by}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(tried) - wrong} of {len(tried)} caught\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
