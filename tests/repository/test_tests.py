"""Rules for the tests themselves."""

from __future__ import annotations

import ast

import pytest

from tests.repository.sources import calls, dotted, imports, sources_of_tests

NEED_A_REASON = {"pytest.mark.skip": 0, "pytest.mark.skipif": 1, "pytest.mark.xfail": 1}
IMPERATIVE = {"pytest.skip", "pytest.xfail", "pytest.fail"}
WAIT_FOR_REAL_PROCESSES = ("tests/faults/", "tests/end_to_end/")


def unreasoned(tree):
    """Yield the line of every test that is skipped or expected to fail without a reason."""
    for call, name in calls(tree):
        if name in IMPERATIVE and not call.args and not call.keywords:
            yield call.lineno
        if name in NEED_A_REASON and not has_reason(call, NEED_A_REASON[name]):
            yield call.lineno
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(decorator_list=marks) | ast.ClassDef(decorator_list=marks):
                yield from (mark.lineno for mark in marks if dotted(mark) in NEED_A_REASON)


def has_reason(call, position):
    """Return whether a mark has a reason."""
    return any(keyword.arg == "reason" for keyword in call.keywords) or len(call.args) > position


def test_skipped_tests_have_a_reason():
    """Expected failures need a reason too."""
    silent = [f"{source.name}:{line}" for source in sources_of_tests() for line in unreasoned(source.tree)]

    assert silent == []


@pytest.mark.parametrize(
    "program",
    [
        "@pytest.mark.skip\ndef test_a(): ...",
        "@pytest.mark.skipif(True)\ndef test_a(): ...",
        "@pytest.mark.xfail()\ndef test_a(): ...",
        "def test_a():\n    pytest.skip()",
    ],
)
def test_missing_reason_is_reported(program):
    """The search finds every way to skip a test."""
    assert list(unreasoned(ast.parse(program))) != []


def test_given_reason_is_not_reported():
    """The reason can be part of a mark or a call."""
    program = (
        "@pytest.mark.skipif(old, reason='3.12 brought it')\ndef test_a():\n    pytest.skip('no server')"
    )

    assert list(unreasoned(ast.parse(program))) == []


def test_no_test_sleeps():
    """Tests set the clock forward instead.

    Only tests with real processes wait, and they wait for a condition with a deadline.
    """
    sleeping = [
        f"{source.name}:{call.lineno}"
        for source in sources_of_tests()
        if not source.name.startswith(WAIT_FOR_REAL_PROCESSES)
        for call, name in calls(source.tree)
        if name in {"time.sleep", "asyncio.sleep", "sleep"}
    ]

    assert sleeping == []


def test_own_code_is_not_mocked():
    """Tests use fakes that fulfil the contract. A mock only does what its test assumes."""
    mocked = [
        f"{source.name}:{line}"
        for source in sources_of_tests()
        for line, name in imports(source.tree)
        if name.startswith(("unittest.mock", "mock"))
    ]

    assert mocked == []
