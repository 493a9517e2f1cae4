"""Every error that a user may meet has its paragraph, with a remedy."""

from __future__ import annotations

import inspect

import pytest

import firelock
from tests.repository.docs.pages import ROOT, headings
from tests.repository.docs.test_hooks_documented import section

PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
ERRORS = sorted(
    name
    for name, one in inspect.getmembers(firelock, inspect.isclass)
    if name in firelock.__all__ and issubclass(one, BaseException)
)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_has_its_paragraph(error):
    """Its heading is its name, and below it stands when it comes and what to do."""
    assert error in list(headings(PAGE))
    assert len(section(PAGE, error)) > 80


def test_no_paragraph_is_of_an_error_that_is_gone():
    """Whoever removes a class removes its paragraph."""
    told = [heading for heading in headings(PAGE) if heading.isidentifier() and heading[:1].isupper()]

    assert [
        name for name in told if name not in ERRORS and name not in {"Configuration", "Jobs", "Locks"}
    ] == []
