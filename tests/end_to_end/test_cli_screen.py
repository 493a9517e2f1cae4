"""Output on a terminal: colours if they are enabled, tables that fit, and no active control characters."""

from __future__ import annotations

import json
import re

import pytest

from firelock import Firelock
from firelock.cli.screen import Cell, Column, Screen, state_cell, visible, visible_lines, width
from firelock.model.text import age, clock_time, isoformat, shorten, span
from tests.end_to_end.cli_run import Terminal, fail

SECOND = 1_000_000
COLUMNS = (Column("ID", is_whole=True), Column("TASK"), Column("JOBS", is_number=True), Column("NOTE"))
ROWS = [["a" * 30, "shop.add", 12, "x" * 200], ["b", "shop.remove_everything", 3, Cell("y", "red")]]


@pytest.fixture
def terminal(monkeypatch):
    """A terminal with 80 columns."""
    for name in ("NO_COLOR", "FORCE_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def without_colours(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_output_to_a_terminal_has_colours(terminal):
    """Each state has its own colour."""
    Screen(out=terminal).line("Job 1  ", state_cell("failed"))

    assert terminal.getvalue() == "Job 1  \x1b[1;31mfailed\x1b[0m\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_disabled(terminal, monkeypatch, name, value):
    """The output has no colours if NO_COLOR is set or the terminal is dumb."""
    monkeypatch.setenv(name, value)

    Screen(out=terminal).table((Column("STATE"),), [[state_cell("failed")]])

    assert "\x1b[31m" not in terminal.getvalue()
    assert "[1;31m" not in terminal.getvalue()
    assert "failed" in terminal.getvalue()


def test_output_to_a_pipe_has_no_colours(capsys):
    Screen().line(Cell("red", "red"))

    assert capsys.readouterr().out == "red\n"


def test_table_fits_the_terminal(terminal):
    """No line is wider than the terminal.

    Ids and numbers are complete, and the last columns are truncated.
    """
    Screen(out=terminal).table(COLUMNS, ROWS)

    lines = without_colours(terminal.getvalue()).splitlines()
    assert len(lines) == 3
    assert all(width(line.rstrip()) <= 80 for line in lines)
    assert lines[1].startswith("a" * 30 + "  shop.add")
    assert " 12  " in lines[1]
    assert lines[1].rstrip().endswith("…")


def test_table_in_a_pipe_is_not_truncated(capsys):
    """A program that reads the output gets every character."""
    Screen().table(COLUMNS, ROWS)

    title, first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("x" * 200)
    assert title.index("NOTE") == first.index("xxx") == second.rindex("y")


def test_json_is_printed_on_a_terminal_too(terminal):
    """The output of --json is valid JSON on a terminal too, and contains only ASCII characters."""
    Screen(is_json=True, out=terminal).json({"text": "ş\x1b\u202e\ud800"})

    assert terminal.getvalue().isascii()
    assert json.loads(terminal.getvalue()) == {"text": "ş\x1b\u202e\ud800"}


def test_markup_in_job_data_is_printed_literally(terminal):
    """Brackets, names of emoji and links have no special meaning."""
    Screen(out=terminal).line("[bold red]x[/bold red] :boom: [link=https://x.test]y[/link]")

    assert terminal.getvalue() == "[bold red]x[/bold red] :boom: [link=https://x.test]y[/link]\n"


def test_escape_sequences_in_job_data_are_escaped(terminal, run, monkeypatch):
    """Apart from the command's own colours, no escape sequence from job data reaches the terminal."""
    monkeypatch.setattr("sys.stdout", terminal)
    with Firelock("memory://hostile") as app:
        job = app.task(name="shop.add")(lambda text: None).enqueue("\x1b[2J\u202e[red]")
        fail(app, message="\x1b]0;title\x07", traceback="\x1b[1A\x1b[2K")

        codes = [
            run(f"jobs {words}", "--storage", "memory://hostile").code for words in ("list", f"show {job.id}")
        ]

    drawn = without_colours(terminal.getvalue())
    assert codes == [0, 0]
    assert [character for character in drawn if not character.isprintable() and character != "\n"] == []
    assert "\\x1b]0;title\\x07" in drawn
    assert "\\x1b[1A\\x1b[2K" in drawn


# ---- strings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ş 日本 ✓", "plain ş 日本 ✓"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("\u2028\u2029\ufeff\u200b", "\\u2028\\u2029\\ufeff\\u200b"),
        ("\x7f\x80\x9b", "\\x7f\\x80\\x9b"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("1\u00a0000", "1 000"),
    ],
)
def test_invisible_characters_are_escaped(text, shown):
    """Control, format, surrogate and separator characters are escaped. Letters of all scripts are not."""
    assert visible(text) == shown


def test_traceback_keeps_its_lines():
    """The line breaks are kept, and hidden characters within the lines are escaped."""
    assert visible_lines("a\r\n\tb\x1b\n") == ["a", "    b\\x1b", ""]


@pytest.mark.parametrize(("text", "columns"), [("abc", 3), ("ş", 1), ("日本", 4), ("e\u0301", 1), ("", 0)])
def test_width_counts_columns(text, columns):
    """East Asian characters occupy two columns, and combining characters occupy none."""
    assert width(text) == columns


@pytest.mark.parametrize(
    ("micros", "shown"),
    [
        (0, "0 ms"),
        (35_000, "35 ms"),
        (1_240_000, "1.2 s"),
        (12 * SECOND, "12 s"),
        (300 * SECOND, "5 min"),
        (3 * 3600 * SECOND, "3 h"),
        (4 * 86_400 * SECOND, "4 d"),
    ],
)
def test_durations_are_short(micros, shown):
    """A duration is printed with about two digits and one unit."""
    assert span(micros) == shown


def test_ages_distinguish_past_and_future():
    """Past times end with "ago", future times begin with "in", and a missing time is empty."""
    assert [age(at, 60 * SECOND) for at in (0, 60 * SECOND, 90 * SECOND, None)] == [
        "1 min ago",
        "0 ms ago",
        "in 30 s",
        "",
    ]


def test_times_are_in_utc():
    """The format for people has seconds, and the format for programs has microseconds."""
    assert clock_time(1_795_572_276_560_455) == "2026-11-25 02:04:36 UTC"
    assert isoformat(1_795_572_276_560_455) == "2026-11-25T02:04:36.560455Z"
    assert (clock_time(None), isoformat(None)) == ("", None)


def test_long_texts_end_with_an_ellipsis():
    """The result has at most the given number of characters. An ellipsis shows that the text was longer."""
    assert [shorten("abcdef", limit) for limit in (6, 5)] == ["abcdef", "abcd…"]
