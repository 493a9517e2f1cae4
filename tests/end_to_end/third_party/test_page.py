"""`docs/writing-a-storage.md` contains the complete, unchanged files of the third-party storage."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from firelock.limits import KeyedLanes
from firelock.storage import RowStorage, Storage
from tests.conformance.mutants import mutations
from tests.repository.docs.pages import ROOT, tokens

PAGE = ROOT / "docs" / "writing-a-storage.md"
PAGES = [PAGE, ROOT / "docs" / "storage-features.md", ROOT / "docs" / "storage-verbs.md"]
FOLDER = ROOT / "tests" / "end_to_end" / "third_party" / "firelock-files"
RULES = {
    "rules": "firelock.storage",
    "batches": "firelock.storage",
    "admission": "firelock.limits",
    "settings": "firelock.limits",
    "unique_rules": "firelock.limits",
}
PART_OF = re.compile(r"<!-- not run: part of (\S+), ")


def parts():
    """Return the page's blocks that are marked as parts of a file, in order, by the path of the file."""
    found, before = {}, ""
    for token in tokens(PAGE.read_text("utf-8")):
        part = PART_OF.match(before)
        if token.type == "fence" and part:
            found.setdefault(part[1], []).append(token.content)
        before = token.content if token.type == "html_block" else ""
    return found


def lines(text):
    """Return the lines that are not blank."""
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", sorted(parts()))
def test_block_is_a_part_of_its_file(path):
    """Each block on the page is contained in its file without changes."""
    content = (FOLDER / path).read_text("utf-8")

    for block in parts()[path]:
        assert block in content, block


@pytest.mark.parametrize(
    "path",
    ["pyproject.toml", "tests/test_storage.py"]
    + [f"src/firelock_files/{path.name}" for path in sorted(FOLDER.glob("src/firelock_files/*.py"))],
)
def test_page_shows_the_whole_file(path):
    """Together, the blocks of a file are the whole file."""
    content = (FOLDER / path).read_text("utf-8")

    assert lines(content) == lines("".join(parts().get(path, [])))


def test_page_lists_every_file():
    """The tree on the page contains exactly the files of the distribution."""
    text = PAGE.read_text("utf-8")
    tree = text[text.index("```text") : text.index("The package imports")]

    named = set(re.findall(r"[\w.-]+\.(?:py|md|toml)", tree))

    assert {path.name for path in FOLDER.rglob("*") if path.suffix in {".py", ".md", ".toml"}} == named


def text_of_pages():
    """Return the three pages for authors of storages as one string."""
    return "\n".join(page.read_text("utf-8") for page in PAGES)


def rules_named(text):
    """Return the rules that the page names, as pairs of module and name.

    `.name` belongs to the module named before it.
    """
    module, found = "", []
    for named, name in re.findall(r"`(\w*)\.(\w+)", text):
        module = named or module
        found.append((module, name))
    return [one for one in found if one[0] in RULES]


def test_rules_and_methods_on_the_pages_exist():
    """Every rule on the pages exists, and the page lists exactly the methods that an author must write."""
    text = text_of_pages()
    named = rules_named(text)

    assert {("rules", "applied"), ("rules", "matches"), ("batches", "end_of")} <= set(named)
    assert {module for module, _ in named} == set(RULES)
    assert [] == [
        f"{module}.{name}"
        for module, name in named
        if not hasattr(import_module(f"{RULES[module]}.{module}"), name)
    ]
    assert {"transact", "clock", "close"} == RowStorage.__abstractmethods__
    assert "You write three methods" in text


def test_pages_contain_every_method():
    """The pages describe every verb of the contract, and the methods that a claim uses to read lanes."""
    text = text_of_pages()
    verbs = [name for name in {**vars(Storage), **vars(KeyedLanes)} if not name.startswith("_")]
    values = {"contract", "features", "url", "connect_url"}

    assert [] == [
        name for name in verbs if name not in values and not re.search(rf"`(?:Storage\.)?{name}[(`]", text)
    ]


def test_number_of_faults_on_the_page_is_correct():
    """The stated number may differ from the actual number by at most 15."""
    stated = re.search(r"About (\d+) faults", PAGE.read_text("utf-8"))
    planted = sum(not mutation.legal for mutation in mutations())

    assert int(stated[1]) == pytest.approx(planted, abs=15)
