"""The kit's additions to pytest: the option that names a storage, and a summary line for each storage."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest

from firelock.testing.conformance.kit import NOT_OFFERED, REPORTED, Conformance, words_of

_OPTION = "--storage"
_OUTCOMES = ("passed", "failed", "error", "xfailed", "xpassed", "skipped")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(parser: pytest.Parser, args: list[str]) -> None:
    """Add the option for the URL of an empty store.

    The option exists only if the command line names the kit, so that a project may have its own option of
    this name.
    """
    if not any("firelock.testing" in argument for argument in args):
        return
    parser.getgroup("firelock").addoption(
        _OPTION,
        action="append",
        default=[],
        metavar="URL",
        help="URL of an EMPTY store, which the conformance kit clears (repeatable); for use with "
        "--pyargs firelock.testing.test_storage or firelock.testing.test_locks",
    )


def urls(config: pytest.Config) -> list[str]:
    """Return the URLs given on the command line.

    Raises:
        pytest.UsageError: If no URL was given.
    """
    given: list[str] = config.getoption(_OPTION, [])
    if not given:
        raise pytest.UsageError(
            f"No storage given. Pass {_OPTION} with the URL of an EMPTY store; the kit clears it."
        )
    return given


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let `-k` select a test of the kit by its part, and by the verbs that the part tests."""
    kit = getattr(item, "cls", None)
    if isinstance(item, pytest.Function) and isinstance(kit, type) and issubclass(kit, Conformance):
        item.extra_keyword_matches |= words_of(kit, item.originalname)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write a line per storage with the number of passed tests and the features that it does not offer."""
    for name, line in _lines(terminalreporter.stats.items()):
        terminalreporter.write_line(f"{name} conformance: {line}")


def _lines(stats: Iterable[tuple[str, list[object]]]) -> list[tuple[str, str]]:
    numbers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    missing: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for outcome, reports in stats:
        for report in reports:
            name = _subject(report)
            if name is None or outcome not in _OUTCOMES:
                continue
            feature = _not_offered(report) if outcome == "skipped" else None
            if feature:
                missing[name][feature] += 1
            else:
                numbers[name][outcome] += 1
    return [(name, _line(numbers[name], missing[name])) for name in sorted({*numbers, *missing})]


def _line(numbers: Counter[str], missing: Counter[str]) -> str:
    parts = [f"{numbers[outcome]} {outcome}" for outcome in _OUTCOMES if numbers[outcome]]
    if missing:
        parts.append(f"{missing.total()} not offered ({', '.join(sorted(missing))})")
    return ", ".join(parts)


def _subject(report: object) -> str | None:
    for name, value in getattr(report, "user_properties", ()):
        if name == REPORTED:
            return str(value)
    return None


def _not_offered(report: object) -> str | None:
    place = getattr(report, "longrepr", None)
    reason = str(place[2]) if isinstance(place, tuple) else ""
    return reason.partition(NOT_OFFERED)[2] or None
