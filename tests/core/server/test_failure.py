"""The description of an exception: bounded, readable, and grouped by a fingerprint."""

from __future__ import annotations

import json
import re

import pytest

from firelock.server.failure import describe_failure, failure_of_text


class PaymentRefused(Exception):
    """An exception of an application."""


def caught(function, *args):
    """Return the exception that a call raises."""
    try:
        function(*args)
    except BaseException as error:  # noqa: BLE001 - the exception to describe
        return error
    raise AssertionError(function)


def raise_value(message):
    raise ValueError(message)


def raise_elsewhere(message):
    raise ValueError(message)


def raise_refused():
    raise PaymentRefused("card 4711 of 'anna'")


def raise_in_library():
    json.loads("{")


def raise_by_turns(left, first=True):
    """Raise an exception below this many frames, in which no two adjacent frames are equal."""
    if not left:
        raise ValueError("deep")
    if first:
        raise_by_turns(left - 1, first=False)
    raise_by_turns(left - 1)


def test_failure_contains_type_and_message():
    """A built-in exception is shown by its name only. The name of any other exception includes its module."""
    builtin, own = describe_failure(caught(raise_value, "x")), describe_failure(caught(raise_refused))

    assert ("ValueError", "x") == (builtin.type, builtin.message)
    assert (f"{__name__}.PaymentRefused", "card 4711 of 'anna'") == (own.type, own.message)


def test_frames_of_the_application_are_marked():
    """The application's frames begin with an arrow. Frames of libraries do not."""
    text = describe_failure(caught(raise_in_library)).traceback

    frames = [line for line in text.splitlines() if 'File "' in line]
    assert [True, True] == [line.startswith("→ ") for line in frames if __file__ in line]
    assert {False} == {line.startswith("→ ") for line in frames if "json/" in line}


def test_frames_of_firelock_are_not_marked():
    """Users search for their own line, so Firelock's frames are treated like those of a library."""
    from firelock.model.clock import micros

    text = describe_failure(caught(micros, "today")).traceback

    assert re.search(r'^  File ".*clock\.py"', text, re.MULTILINE)


# ---- fingerprints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("user 17 not found", "user 18 not found"),
        ("no key 'anna'", "no key 'bert'"),
        ('no key "anna"', 'no key "bert"'),
        ("object at 0x7f00aa", "object at 0x7fbbcc"),
        ("same", "same"),
    ],
)
def test_similar_failures_share_a_fingerprint(one, other):
    """Messages that differ only in numbers, addresses and quoted strings have the same fingerprint."""
    prints = {describe_failure(caught(raise_value, message)).fingerprint for message in (one, other)}

    assert 1 == len(prints)


def test_different_failures_have_different_fingerprints():
    """A different message, type or place results in a different fingerprint."""
    prints = [
        describe_failure(caught(raise_value, "x")).fingerprint,
        describe_failure(caught(raise_value, "y")).fingerprint,
        describe_failure(caught(raise_elsewhere, "x")).fingerprint,
        describe_failure(caught(raise_refused)).fingerprint,
        failure_of_text("ValueError", "x").fingerprint,
    ]

    assert 5 == len(set(prints))


def test_fingerprint_uses_the_innermost_application_frame():
    """A failure inside a library belongs to the application's line that called the library."""
    direct = caught(raise_in_library)
    through = caught(lambda: raise_in_library())  # noqa: PLW0108 - one more frame above

    assert describe_failure(direct).fingerprint == describe_failure(through).fingerprint


# ---- bounds ----------------------------------------------------------------------------------------------


def test_message_is_truncated_at_1000_characters():
    """A message of any length is shortened before it is stored."""
    info = describe_failure(ValueError("x" * 5_000))

    assert "x" * 999 + "…" == info.message


def test_repeated_frames_of_a_recursion_are_collapsed():
    """As in Python, three equal frames are shown, followed by the number of repetitions.

    The frames that led to the recursion are kept.
    """

    def down(left):
        if not left:
            raise ValueError("deep")
        down(left - 1)

    lines = describe_failure(caught(down, 60)).traceback.split("\n")

    assert ["  [Previous line repeated 57 more times]"] == [one for one in lines if "repeated" in one]
    assert 3 == sum(one == "    down(left - 1)" for one in lines)
    assert not any("left out" in one for one in lines)
    once = describe_failure(caught(down, 4)).traceback
    assert "  [Previous line repeated 1 more time]\n" in once
    assert "repeated" not in describe_failure(caught(down, 3)).traceback


def test_middle_frames_of_a_deep_stack_are_omitted():
    """The first and the last twenty frames are kept, and the text contains the number of omitted ones."""
    text = describe_failure(caught(raise_by_turns, 100)).traceback

    assert 40 == text.count("File ")
    assert "  … 62 frames left out …" in text


def test_long_traceback_is_truncated_in_the_middle():
    """A traceback is at most 16 KiB long, plus the note about the omitted part."""
    text = describe_failure(ValueError("x" * 50_000)).traceback

    assert len(text) < 16 * 1024 + 100
    assert re.search(r"… \d+ characters left out …", text)


def chain(length):
    """Return an exception with a chain of this length."""
    error = ValueError("number 0")
    for number in range(1, length):
        following = ValueError(f"number {number}")
        following.__cause__ = error
        error = following
    return error


def test_long_exception_chain_is_truncated():
    """Ten chained exceptions are shown, and the oldest of the others are omitted."""
    text = describe_failure(chain(30)).traceback

    assert [f"number {number}" for number in range(20, 30)] == re.findall(r"ValueError: (number \d+)", text)
    assert "… more chained exceptions left out …" in text
    assert "That caused the following:" in text


def test_handled_exception_is_shown_as_context():
    """If an exception is raised while another one is handled, both are shown.

    `from None` hides the first one.
    """

    def while_handling():
        try:
            raise_value("first")
        except ValueError:
            raise_value("second")

    def from_none():
        try:
            raise_value("first")
        except ValueError:
            raise KeyError("second") from None

    shown, hidden = describe_failure(caught(while_handling)), describe_failure(caught(from_none))

    assert "ValueError: first" in shown.traceback
    assert "While that was handled, this happened:" in shown.traceback
    assert "first" not in hidden.traceback


def test_exceptions_of_a_group_are_shown():
    """Up to ten members of a group are shown, each in its own section."""
    group = ExceptionGroup("many", [ValueError(f"member {number}") for number in range(12)])

    text = describe_failure(group).traceback

    assert [f"member {number}" for number in range(10)] == re.findall(r"ValueError: (member \d+)", text)
    assert "Exception 10 of 12 in the group:" in text


def test_nested_groups_are_shown_to_ten_levels():
    """If groups with one member are nested, a note replaces the levels below the tenth."""
    error = ValueError("leaf")
    for depth in range(30):
        error = ExceptionGroup(f"level {depth}", [error])

    text = describe_failure(error).traceback

    assert "level 29" in text
    assert "leaf" not in text
    assert "… more chained exceptions left out …" in text


# ---- exceptions that misbehave ---------------------------------------------------------------------------


class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError("no")


def test_exception_whose_message_cannot_be_read_is_described():
    """An exception whose `__str__` raises is described anyway."""
    info = describe_failure(Unreadable())

    assert "(its message cannot be read: RuntimeError)" == info.message
    assert info.traceback


def test_unsupported_characters_of_a_message_are_escaped():
    """Lone surrogates and NULs are escaped, because no storage accepts them."""
    info = describe_failure(ValueError("a\0b\ud800"))

    assert "a\\0b\\ud800" == info.message
    assert "\0" not in info.traceback
    assert info.traceback.encode()


# ---- failures without an exception -----------------------------------------------------------------------


def test_failure_without_an_exception_has_only_a_message():
    """The death of a process is a failure without a traceback.

    Equal failures of this kind share a fingerprint.
    """
    one = failure_of_text("ProcessDied", "SIGKILL after 17 s")
    other = failure_of_text("ProcessDied", "SIGKILL after 18 s")

    assert ("ProcessDied", "SIGKILL after 17 s", None) == (one.type, one.message, one.traceback)
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    "filename",
    [
        "/usr/lib/python3/dist-packages/lib/x.py",
        "/srv/env/lib/site-packages/lib/x.py",
        "<frozen x>",
    ],
)
def test_frames_of_installed_packages_are_not_marked(filename):
    """This applies wherever the system stores the packages."""
    namespace = {}
    exec(compile("def fail():\n    raise ValueError('x')", filename, "exec"), namespace)

    text = describe_failure(caught(namespace["fail"])).traceback

    assert f'  File "{filename}"' in text
