"""`docs/how-it-works.md` follows one job through the files that execute it, and names each of them."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.repository.docs.pages import ROOT


def test_walk_names_every_executed_file():
    """The benchmark runs a job in memory from enqueue to succeeded, with a server in the same process."""
    page = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(\.\./packages/core/src/([\w/]+\.py)\)", page))

    walked = subprocess.run(
        [sys.executable, "-m", "benchmarks.reading_path", "memory"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    crossed = set(re.findall(r"^ *[\d,]+  (firelock/[\w/]+\.py)$", walked, re.MULTILINE))

    assert {"firelock/jobs/client.py", "firelock/server/dispatcher.py"} <= crossed
    assert set() == crossed - linked


def test_link_labelled_with_a_file_leads_to_it():
    """Files move, and an outdated label would send readers to a file that does not exist."""
    page = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")
    links = re.findall(r"\[([^\]\n]+\.(?:py|lua))\]\(([^)\n]+)\)", page)

    misleading = [(label, path) for label, path in links if not path.endswith(f"/{label}")]

    assert links != []
    assert misleading == []
