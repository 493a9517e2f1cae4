"""The table of settings in the documentation is the one that the code declares."""

from __future__ import annotations

import attrs
import pytest

from firelock import Settings
from tests.repository.docs.pages import ROOT, table_rows

PAGE = ROOT / "docs" / "settings.md"
HEAD = ["Setting", "Default", "From", "To", "Environment", "Meaning"]


def shown(number):
    """The number as the table writes it: thousands apart, no point in a whole one; or on and off."""
    if isinstance(number, bool):
        return str(number).lower()
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def row_of(field):
    """The row that a setting should have."""
    return [
        f"`{field.name}`",
        shown(field.default),
        shown(field.metadata["least"]),
        shown(field.metadata["most"]),
        f"`FIRELOCK_{field.name.upper()}`",
        field.metadata["doc"],
    ]


@pytest.mark.parametrize("field", attrs.fields(Settings), ids=lambda field: field.name)
def test_a_setting_has_its_row(field):
    """Name, default, bounds, environment name and meaning are those of the code."""
    expected = row_of(field)

    found = [row for row in table_rows(PAGE.read_text(encoding="utf-8"), HEAD) if row[0] == expected[0]]

    assert found == [expected]


def test_the_table_holds_nothing_else():
    """A setting that was removed leaves no row behind, and the order is the code's."""
    names = [f"`{field.name}`" for field in attrs.fields(Settings)]

    assert names == [row[0] for row in table_rows(PAGE.read_text(encoding="utf-8"), HEAD)]


def test_only_tables_of_settings_are_read():
    """Another table of the page is left alone."""
    page = (
        "| Setting | Default | From | To | Environment | Meaning |\n|---|---|---|---|---|---|\n"
        "| `a` | 1 | 0 | 2 | `FIRELOCK_A` | x |\n\n| Name | Value |\n|---|---|\n| b | 2 |\n"
    )

    assert table_rows(page, HEAD) == [["`a`", "1", "0", "2", "`FIRELOCK_A`", "x"]]
