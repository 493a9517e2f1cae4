"""Each format is declared once: names in scripts are replaced by positions, and no script counts them."""

from __future__ import annotations

import re

import pytest

from firelock_redis.layout.wire import Array, Field, Text, Words, placed
from firelock_redis.layout.words import FORMATS
from firelock_redis.scripts import TEXTS, script

LINE = Text(
    (Field("first", "%d+", " "), Field("second", "[^\t\n]*", "\t"), Field("third", "%u", "\n")),
    begins="^.*\n",
)
WORD = Words(("first", "second"))
SOME = Array("first", "second", "third", nothing="[1,'2']")
THREE = {"LINE": LINE, "WORD": WORD, "SOME": SOME}
NAMED = re.compile(r"\b([A-Z][A-Z_]*)\.[a-z]")


def code_of(text):
    """Return the lines of a script without their comments."""
    return re.sub(r"--.*", "", text)


def test_names_in_scripts_are_replaced_with_positions():
    """Words are counted from the first one, and array elements from 1.

    A string format provides patterns and the separators of its fields.
    """
    assert placed("ARGV[arg + WORD.second] WORD.width", THREE) == "ARGV[arg + 1] 2"
    assert placed("said[SOME.third] SOME.nothing", THREE) == r"said[3] '[1,\'2\']'"
    assert placed("LINE.captures(first, third)", THREE) == r"'^.*\n(%d+) [^\t\n]*\t(%u)\n'"
    assert placed("LINE.captures(second)", THREE) == r"'^.*\n%d+ ([^\t\n]*)\t'"
    assert placed("first .. LINE.between(first, third)", THREE) == r"first .. ' \t'"


@pytest.mark.parametrize(
    "named",
    [
        "WORD.third",
        "SOME.fourth",
        "LINE.captures(fourth)",
        "LINE.captures(second, first)",
        "LINE.between(a, b)",
    ],
)
def test_unknown_field_is_refused(named):
    """A misspelled field is refused wherever it is used, because it has no position."""
    with pytest.raises(ValueError, match=r"not in|not fields"):
        placed(f"local a = {named}", THREE)


def test_string_is_written_and_read_by_field_names():
    """Python can read the fields of the strings that it writes by their names."""
    text = LINE.write(third="U", first=12, second="a b")

    assert text == "12 a b\tU\n"
    assert LINE.read(text, "first", "third") == ("12", "U")
    with pytest.raises(ValueError, match="x a b"):
        LINE.read("x a b\tU\n", "first")
    with pytest.raises(ValueError, match="third"):
        LINE.write(first=1, second="")


def test_array_ignores_fields_of_a_newer_release():
    """Elements that an older release did not write are omitted. Missing values are written as null."""
    assert SOME.read("[1,2,3,4]") == {"first": 1, "second": 2, "third": 3}
    assert SOME.read("[1]") == {"first": 1}
    assert SOME.write(second="é") == '[null,"é"]'
    with pytest.raises(ValueError, match="not in tuple"):
        SOME.write(other=1)


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_scripts_use_names_instead_of_positions(name):
    """No script uses the position of a word or a field: it uses the name of a declared format.

    If this fails: declare the words in layout/words.py, or the string in layout/encoding.py, and use the
    names.
    """
    text = code_of(TEXTS[name])

    assert {found[1] for found in NAMED.finditer(text)} <= FORMATS.keys()
    assert not NAMED.search(placed(text, FORMATS))
    assert not re.search(r"ARGV\[[a-z_]+ \+ \d", text) or name in {"records", "logs"}
    assert not re.search(r"unpack\(ARGV, \w+, \w+ \+ \d", text)
    assert not re.search(r"\[\^\\t\\n\]\*\\t|(\\t){2}", text)


def test_every_format_is_used_by_a_script():
    """If no script uses the name of a format, some code reads or writes the format by positions."""
    used = {found[1] for text in TEXTS.values() for found in NAMED.finditer(code_of(text))}

    assert FORMATS.keys() == used
    assert all(script(name).text for name in TEXTS)
