"""`docs/writing-a-storage.md` shows the stranger's files as they are, and all of them."""

from __future__ import annotations

import re

import pytest

from tests.repository.docs.pages import ROOT, tokens

PAGE = ROOT / "docs" / "writing-a-storage.md"
FOLDER = ROOT / "tests" / "end_to_end" / "third_party" / "firelock-files"
PART_OF = re.compile(r"<!-- not run: part of (\S+), ")


def parts():
    """The blocks of the page that are said to be part of a file, in order, by the file's path."""
    found, before = {}, ""
    for token in tokens(PAGE.read_text("utf-8")):
        said = PART_OF.match(before)
        if token.type == "fence" and said:
            found.setdefault(said[1], []).append(token.content)
        before = token.content if token.type == "html_block" else ""
    return found


def lines(text):
    """The lines that hold something."""
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", sorted(parts()))
def test_a_block_is_a_part_of_its_file(path):
    """What the page shows of a file stands there, line by line."""
    content = (FOLDER / path).read_text("utf-8")

    for block in parts()[path]:
        assert block in content, block


@pytest.mark.parametrize(
    "path",
    ["pyproject.toml", "tests/test_storage.py"]
    + [f"src/firelock_files/{path.name}" for path in sorted(FOLDER.glob("src/firelock_files/*.py"))],
)
def test_the_page_shows_the_whole_file(path):
    """The blocks of a file, one after another, are the file."""
    content = (FOLDER / path).read_text("utf-8")

    assert lines(content) == lines("".join(parts().get(path, [])))


def test_the_page_names_every_file():
    """Each file of the distribution stands in the tree, and nothing else does."""
    text = PAGE.read_text("utf-8")
    tree = text[text.index("```text") : text.index("It imports")]

    named = set(re.findall(r"[\w.-]+\.(?:py|md|toml)", tree))

    assert {path.name for path in FOLDER.rglob("*") if path.suffix in {".py", ".md", ".toml"}} == named


def test_the_page_speaks_of_what_exists():
    """Every rule that the page names is there, and the methods to write are those it says."""
    from firelock.storage import RowStorage, rules

    text = PAGE.read_text("utf-8")
    named = re.findall(r"`rules\.(\w+)`", text)

    assert {"applied", "matches"} <= set(named)
    assert [] == [name for name in named if not hasattr(rules, name)]
    assert {"step", "clock", "close"} == RowStorage.__abstractmethods__
    assert "Three methods are to be written" in text
