"""The table of settings in the documentation matches the code."""

from __future__ import annotations

import attrs
import pytest

from firelock import Settings
from tests.repository.docs.pages import ROOT, table_rows

PAGE = ROOT / "docs" / "settings.md"
HEAD = ["Setting", "Default", "From", "To", "Environment", "Meaning"]


def shown(number):
    """Return the number in the table's form: thousands separated by commas, whole numbers without a point.

    Booleans are written as `true` and `false`.
    """
    if isinstance(number, bool):
        return str(number).lower()
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def row_of(field):
    """Return the expected row of a setting."""
    return [
        f"`{field.name}`",
        shown(field.default),
        shown(field.metadata["least"]),
        shown(field.metadata["most"]),
        f"`FIRELOCK_{field.name.upper()}`",
        field.metadata["doc"],
    ]


@pytest.mark.parametrize("field", attrs.fields(Settings), ids=lambda field: field.name)
def test_setting_has_a_row(field):
    """The name, default value, bounds, environment variable and meaning are the same as in the code."""
    expected = row_of(field)

    found = [row for row in table_rows(PAGE.read_text(encoding="utf-8"), HEAD) if row[0] == expected[0]]

    assert found == [expected]


def test_table_contains_only_settings():
    """A removed setting has no row, and the rows are in the same order as in the code."""
    names = [f"`{field.name}`" for field in attrs.fields(Settings)]

    assert names == [row[0] for row in table_rows(PAGE.read_text(encoding="utf-8"), HEAD)]


def test_only_tables_of_settings_are_read():
    """Other tables on the page are ignored."""
    page = (
        "| Setting | Default | From | To | Environment | Meaning |\n|---|---|---|---|---|---|\n"
        "| `a` | 1 | 0 | 2 | `FIRELOCK_A` | x |\n\n| Name | Value |\n|---|---|\n| b | 2 |\n"
    )

    assert table_rows(page, HEAD) == [["`a`", "1", "0", "2", "`FIRELOCK_A`", "x"]]
