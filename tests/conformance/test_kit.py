"""The kit's own behaviour: no test is silenced without a reason, and missing features are reported."""

from __future__ import annotations

import re
import threading
from itertools import groupby
from pathlib import Path

import attrs
import pytest

from firelock.storage import PLAIN_FIELDS, Feature, NewJob, Storage
from firelock.storage.memory import MemoryStorage
from firelock.testing import Handles, RowStorageConformance, StorageConformance, requires
from firelock.testing.conformance.kit import Conformance, required_features
from firelock.testing.conformance.race import is_hanging, race, race_two, until_none_is_left
from firelock.testing.conformance.storage.insert import FIELD_VALUES, TESTED_SEPARATELY
from firelock.testing.waiting import eventually
from tests.conformance.lua_mutants import lua_mutations, script_of
from tests.conformance.mutants import mutations, path_of

pytest_plugins = ["pytester"]

_SUITE = """
from __future__ import annotations

import pytest

from firelock.testing import StorageConformance


class TestMine(StorageConformance):
    @pytest.fixture
    def storage_url(self):
        return "memory://mine"

    @pytest.mark.xfail(reason="a known gap")
    def test_migrating_twice_changes_nothing(self, storage):
        raise AssertionError
"""


class _Part(Conformance):
    def test_rule(self) -> None:
        """A subclass must not replace this test."""


@pytest.mark.parametrize("replacement", [lambda _: None, None], ids=["another test", "nothing"])
def test_disabled_test_is_refused(replacement):
    """A class that overrides a test of the kit or sets it to None cannot be created."""
    with pytest.raises(TypeError, match="replaces the test of _Part"):
        type("TestMine", (_Part,), {"test_rule": replacement})


def test_known_gap_needs_a_reason():
    """A subclass may mark a test of the kit as xfail only if the mark has a reason."""

    def gap(self: object) -> None: ...

    named = type("TestMine", (_Part,), {"test_rule": pytest.mark.xfail(reason="not yet")(gap)})

    assert issubclass(named, _Part)

    def silent(self: object) -> None: ...

    unexplained = getattr(pytest.mark, "xfail")  # noqa: B009 - a mark without a reason must be refused
    with pytest.raises(TypeError):
        type("TestMine", (_Part,), {"test_rule": unexplained(silent)})


def test_tests_of_two_parts_have_different_names():
    """Two parts of the kit must not have tests with the same name, because one would hide the other."""
    other = type("_Other", (Conformance,), {"test_rule": lambda _: None})

    with pytest.raises(TypeError):
        type("TestBoth", (_Part, other), {})


def test_subclass_may_add_tests():
    own = type("TestMine", (_Part,), {"test_my_rule": lambda _: None})

    assert {"test_rule", "test_my_rule"} <= set(dir(own))


def test_required_features_are_marked_on_the_test():
    """`requires` sets the features that a test needs, and `needs` the features for a whole part.

    By default, a test needs no features.
    """

    @requires(Feature.NOTIFY)
    def needs_it() -> None: ...

    part = type("_Other", (Conformance,), {"needs": Feature.LIMITS, "test_of_a_part": needs_it})

    assert (Feature.NOTIFY, Feature.LIMITS) == required_features(vars(part)["test_of_a_part"])
    assert () == required_features(_Part.test_rule)


def test_every_test_of_the_kit_states_its_rule_and_its_failure():
    """Each docstring contains a rule in one sentence and states what a failure of the test means."""
    tests = {
        name: getattr(RowStorageConformance, name)
        for name in dir(RowStorageConformance)
        if name.startswith("test")
    }

    silent = [
        name
        for name, test in tests.items()
        if "\n\n" not in (test.__doc__ or "") or "If this fails:" not in test.__doc__
    ]

    assert len(tests) > 200
    assert [] == silent


def test_kit_has_a_value_for_each_field_of_a_new_job():
    """The kit stores each field with every kind of insert, so no storage can drop a field on a fast path."""
    names = {field.name for field in attrs.fields(NewJob)}

    assert names == {*PLAIN_FIELDS, *FIELD_VALUES, *TESTED_SEPARATELY}, (
        "Add a value of the new field to FIELD_VALUES in the kit's storage/insert.py."
    )


def test_random_operations_run_last(pytester):
    """The tests of single rules run before the random operations. The tests of each class run together."""
    pytester.makepyfile(test_mine=_SUITE.partition("    @pytest.mark.xfail")[0])

    run = pytester.runpytest_subprocess("-q", "--collect-only", "-k", "TestMine")

    tests = [line.partition("TestMine::")[2] for line in run.outlines if "TestMine::" in line]
    names = [test.partition("[")[0] for test in tests]
    owners = [next(base for base in StorageConformance.__mro__ if name in vars(base)) for name in names]
    assert list(dict.fromkeys(owners)) == [owner for owner, _ in groupby(owners)]
    assert ("LifeTests", "ModelTests") == (owners[0].__name__, owners[-1].__name__)


@pytest.mark.parametrize("verb", sorted(name for name in vars(Storage) if callable(vars(Storage)[name])))
def test_every_method_belongs_to_a_part_of_the_kit(verb):
    """Each verb of the contract belongs to at least one part of the kit, so `-k` can select tests by verb."""
    if verb.startswith("_"):
        return

    parts = [base for base in StorageConformance.__mro__ if verb in vars(base).get("verbs", "").split()]

    assert parts
    assert [] == [part for part in parts if not any(name.startswith("test") for name in vars(part))]


@pytest.mark.parametrize("word", ["prune", "release", "put_record"])
def test_method_name_selects_the_tests_of_its_part(pytester, word):
    """`-k VERB` runs every test of the verb's part, even if the test's name does not contain the verb."""
    pytester.makepyfile(test_mine=_SUITE)

    run = pytester.runpytest_subprocess("-q", "--collect-only", "-k", word)

    part = next(base for base in StorageConformance.__mro__ if word in vars(base).get("verbs", "").split())
    selected = {re.split(r"::|\[", line)[2] for line in run.outlines if "TestMine::" in line}
    assert {name for name in vars(part) if name.startswith("test")} <= selected
    assert 3 * len(selected) < len([name for name in dir(StorageConformance) if name.startswith("test")])


def test_source_of_every_mutation_exists():
    """Each mutation of the heavy tests replaces code that its source file contains."""
    tables = [(mutations(), path_of), (lua_mutations(), script_of)]

    lost = [
        mutation.name
        for table, source in tables
        for mutation in table
        if mutation.old not in source(mutation).read_text("utf-8")
    ]

    assert [] == lost
    assert [True, True] == [len(table) > 60 for table, _ in tables]


def test_handles_share_the_clock():
    """Every handle uses the clock that the test moves, and opening the first handle empties the store."""
    keeper = MemoryStorage("kit-handles")
    keeper.put_record("kind", "key", "value")

    handles = Handles(lambda: MemoryStorage("kit-handles"))
    before = handles.first.clock()
    handles.advance(7_200)

    assert [] == keeper.list_records("kind")
    assert 7_200 <= (handles.first.clock() - before) / 1_000_000 < 7_300
    handles.close()


def test_unshared_storage_has_only_one_handle():
    """All handles of an unshared storage are one object; each handle of a shared storage is a new object."""

    class Shared(MemoryStorage):
        features = frozenset({Feature.SHARED})

    def opened(kind):
        handles = Handles(lambda: kind("kit-shared"))
        try:
            return handles.open() is handles.first
        finally:
            handles.close()

    assert (True, False) == (opened(MemoryStorage), opened(Shared))


def test_race_raises_errors_and_keeps_the_order_of_results():
    """An error in any of the concurrent calls is raised, and the results are in the order of the calls."""

    def fails():
        raise LookupError

    assert [1, 2, 3] == race([lambda: 1, lambda: 2, lambda: 3])
    assert (1, "b") == race_two(lambda: 1, lambda: "b")
    with pytest.raises(LookupError):
        race([lambda: 1, fails])


def test_hanging_call_fails_the_test(monkeypatch):
    """If a call never returns, the test does not hang but fails and shows where the call hangs."""
    monkeypatch.setattr("firelock.testing.conformance.race._DEADLINE", 0.2)
    goes_on = threading.Event()

    def wait_for_nobody():
        goes_on.wait()

    try:
        with pytest.raises(AssertionError, match=r"(?s)1 of 2 calls have not returned.*in wait_for_nobody"):
            race([lambda: 1, wait_for_nobody])
        assert is_hanging()
    finally:
        goes_on.set()
    eventually(lambda: not is_hanging())


_HANGING = """
import pytest

from firelock.testing import RowStorageConformance
from firelock.testing.conformance import race
from tests.conformance.plain_rows import PlainStorage, Store

race._DEADLINE = 0.5


class Forgetful(PlainStorage):
    def transact(self, body):
        self.store.latch.acquire()
        answer = super().transact(body)  # where the body raises, the latch is never released
        self.store.latch.release()
        return answer


class TestHanging(RowStorageConformance):
    @pytest.fixture
    def open_handle(self):
        import threading

        store = Store()
        store.latch = threading.Lock()
        return lambda: Forgetful(store)
"""


def test_hanging_transaction_ends_the_run(pytester, monkeypatch):
    """A transaction that never returns fails its test. No later test starts, and the run ends by itself."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makepyfile(test_mine=_HANGING)

    run = pytester.runpytest_subprocess("-q", "-k", "test_transaction_", timeout=120)

    counts = run.parseoutcomes()
    assert 1 == counts["failed"]
    assert counts["errors"] > 0
    run.stdout.fnmatch_lines_random(
        [
            "*test_transaction_that_raises_stores_nothing*",
            "*1 of 1 calls have not returned after*",
            "*self.store.latch.acquire()*",
            "*A call of an earlier test still hangs, so this test was not run.*",
        ]
    )


def test_endless_calls_fail_the_test():
    """An endless series of calls is reported as a failure; the test does not hang."""
    with pytest.raises(AssertionError, match="work is still left"):
        until_none_is_left(lambda: 1)


def test_summary_has_a_line_per_storage(pytester):
    """A run of the kit ends with the numbers of passed tests, known gaps and missing features per storage."""
    pytester.makepyfile(test_mine=_SUITE)

    result = pytester.runpytest_subprocess(
        "-q", "-k", "TestMine and (migrating or restart or share_one or contract_version)"
    )

    result.stdout.fnmatch_lines(["memory conformance: 1 passed, 1 xfailed, 2 not offered (durable, shared)"])


def test_kit_runs_without_a_test_file(pytester):
    """The kit needs only the URL of a storage. Without a URL, it fails with a message that requests one."""
    form = [
        "--pyargs",
        "firelock.testing.test_storage",
        "firelock.testing.test_locks",
        "-q",
        "-k",
        "is_acquired",
    ]

    named = pytester.runpytest_subprocess(*form, "--storage", "memory://a", "--storage", "memory://b")
    unnamed = pytester.runpytest_subprocess(*form)

    named.assert_outcomes(passed=4, deselected=named.parseoutcomes()["deselected"])
    assert unnamed.ret != 0
    assert "No storage given. Pass --storage" in str(unnamed.outlines + unnamed.errlines)


def test_testing_module_imports_pytest_and_hypothesis_lazily():
    """Importing `firelock.testing` does not import pytest or Hypothesis."""
    import subprocess
    import sys

    code = "import sys, firelock.testing; print({'pytest', 'hypothesis'} & sys.modules.keys())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "set()" == answer.stdout.strip()
