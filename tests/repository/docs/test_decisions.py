"""The decisions in docs/decisions are numbered, listed in their README and have the same headings."""

from __future__ import annotations

import re

import pytest

from tests.repository.docs.pages import ROOT, headings

FOLDER = ROOT / "docs" / "decisions"
DECISIONS = sorted(page for page in FOLDER.glob("*.md") if page.name != "README.md")
LINE = re.compile(r"^- (?P<number>\d{4}) \[(?P<title>.+)\]\((?P<file>[^)]+)\)$", re.MULTILINE)


def test_decisions_are_numbered_without_gaps():
    """The file names begin with four digits, counted from 0001."""
    numbers = [page.name[:5] for page in DECISIONS]

    assert numbers == [f"{number:04}-" for number in range(1, len(DECISIONS) + 1)]


def test_readme_lists_every_decision_with_its_title():
    """The README has one line for each file, in numerical order. Each link text is the title of the page."""
    listed = LINE.findall((FOLDER / "README.md").read_text(encoding="utf-8"))

    written = [
        (page.name[:4], page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# "), page.name)
        for page in DECISIONS
    ]

    assert listed == written


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem[:4])
def test_decision_has_the_four_headings(page):
    """The headings of a decision are context, decision, consequences and rejected options."""
    _, *below = headings(page.read_text(encoding="utf-8"))

    assert below == ["Context", "Decision", "Consequences", "What was rejected"]


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem[:4])
def test_file_name_of_a_decision_is_its_title(page):
    """A file can therefore be found by the words of its title."""
    (title, *_) = headings(page.read_text(encoding="utf-8"))

    assert page.stem[5:] == re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
