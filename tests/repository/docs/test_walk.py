"""`docs/how-it-works.md` follows one job through the files that execute it, and names each of them."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.repository.docs.pages import ROOT


def test_page_names_every_executed_file():
    """The benchmark runs a job in memory from enqueue to success, with a server in the same process."""
    page = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(\.\./packages/core/src/([\w/]+\.py)\)", page))

    walked = subprocess.run(
        [sys.executable, "-m", "benchmarks.reading_path", "memory"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    crossed = set(re.findall(r"^ *[\d,]+  (firelock/[\w/]+\.py)$", walked, re.MULTILINE))

    assert {"firelock/jobs/client.py", "firelock/server/dispatcher.py"} <= crossed
    assert set() == crossed - linked


def is_defined(name, path):
    """Return whether the file defines this function, method or statement."""
    definition = rf"\bdef {name}\(|^(?:\w+, )*{name}\b.* = "
    return re.search(definition, (ROOT / path).read_text("utf-8"), re.MULTILINE) is not None


def test_functions_are_in_the_files_that_the_page_names():
    """The page refers to functions in the form "`function` in [file](path)"."""
    page = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")
    named = re.findall(r"((?:`\w+` and )?`\w+`) in\s\[[^\]]+\]\(\.\./([^)]+)\)", page)
    pairs = [(name, path) for names, path in named for name in re.findall(r"\w+(?=`)", names)]

    missing = [(name, path) for name, path in pairs if not is_defined(name, path)]

    assert ("_insert_plain", "packages/backend-sql/src/firelock_sql/sqlite/storage.py") in pairs
    assert missing == []


def test_link_labelled_with_a_file_leads_to_it():
    """When files are moved, an outdated label would send readers to a file that does not exist."""
    page = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")
    links = re.findall(r"\[([^\]\n]+\.(?:py|lua))\]\(([^)\n]+)\)", page)

    misleading = [(label, path) for label, path in links if not path.endswith(f"/{label}")]

    assert links != []
    assert misleading == []
