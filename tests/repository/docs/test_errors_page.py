"""Every error that a user might get has a paragraph with a fix."""

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
def test_error_has_a_paragraph(error):
    """The heading of the paragraph is the name of the error, and the text explains the cause and the fix."""
    assert error in list(headings(PAGE))
    assert len(section(PAGE, error)) > 80


def test_every_paragraph_is_about_an_existing_error():
    """If an error class is removed, its paragraph must be removed too."""
    documented = [heading for heading in headings(PAGE) if heading.isidentifier() and heading[:1].isupper()]

    assert [
        name for name in documented if name not in ERRORS and name not in {"Configuration", "Jobs", "Locks"}
    ] == []
