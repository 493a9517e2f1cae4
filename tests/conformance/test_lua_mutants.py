"""The kit detects faults in the Lua scripts for Redis, which implement the rules of keys a second time."""

from __future__ import annotations

import pytest

from tests.conformance.lua_mutants import lua_catcher, lua_mutations
from tests.conformance.test_mutants import named
from tests.redis.programs import programs_of_groups

pytestmark = pytest.mark.heavy("each of many faults runs tests of the kit on a server")


@pytest.fixture(scope="module", params=programs_of_groups())
def program(request):
    """The scripts are the same on every program."""
    return request.param


@pytest.mark.parametrize("mutation", lua_mutations(), ids=named)
def test_every_mutant_of_the_scripts_is_caught(mutation, server):
    """If a script has a fault, a test in the part of the kit that covers the fault fails."""
    server.empty()

    assert lua_catcher(mutation, server.url(), rounds=3) is not None, (
        f"no test of {mutation.detected_by}Tests notices: {mutation.name}"
    )
