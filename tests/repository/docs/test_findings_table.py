"""The table of findings in the documentation lists every code, with its severities in the source."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.repository.docs.pages import ROOT, table_rows

PAGE = ROOT / "docs" / "findings.md"
HEAD = ["Code", "Severity", "Subject", "What it means", "What to do"]
SEVERITIES = ("error", "warning", "note")
MAKERS = {"Finding", "_counted"}  # `_counted` creates checks that count jobs by a name
PLACES = ("core/src/firelock/control", "backend-sql/src", "backend-redis/src")


def codes():
    """Return the severities of each code in the sources of the four packages."""
    found = defaultdict(set)
    for place in PLACES:
        for file in sorted((ROOT / "packages" / place).rglob("*.py")):
            for call in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(call, ast.Call) and getattr(call.func, "id", None) in MAKERS:
                    severity, code, *_ = call.args
                    if ast.unparse(code) == "code":  # within `_counted`
                        continue
                    assert isinstance(code, ast.Constant), f"{file}:{call.lineno}: a code is a literal"
                    words = ast.unparse(severity).replace("Severity.", "").split()
                    found[code.value] |= {word.lower() for word in words} & {*SEVERITIES}
    return found


def rows():
    """Return the cells of every row of the tables of findings."""
    return table_rows(PAGE.read_text("utf-8"), HEAD)


def test_every_code_has_one_row_with_its_severities():
    """A code without a row could not be looked up, and two rows for one code might contradict each other."""
    listed = [(row[0].strip("`"), row[1]) for row in rows()]

    expected = {
        code: " or ".join(one for one in SEVERITIES if one in severities)
        for code, severities in codes().items()
    }
    assert expected == dict(listed)
    assert len(listed) == len(expected)


def test_every_row_is_complete():
    """Each row states the subject of the finding, its meaning and the fix."""
    assert [] == [row[0] for row in rows() if not all(cell.strip() for cell in row)]


def test_only_the_core_and_storages_create_findings():
    """Other packages show findings, but do not define any."""
    others = [
        str(file.relative_to(ROOT))
        for file in sorted((ROOT / "packages").glob("*/src/**/*.py"))
        if not any(place in file.as_posix() for place in PLACES)
        for call in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "Finding"
    ]

    assert [] == others
