"""Links in the documentation have a target, and every hook has a heading."""

from __future__ import annotations

import inspect

import pytest

from firelock.plugins.loader import hookspecs
from tests.repository.docs.pages import ROOT, all_pages, anchors, broken_links, headings

HOOKS = sorted(
    name for name, function in inspect.getmembers(hookspecs, inspect.isfunction)
    if hasattr(function, f"{hookspecs.PROJECT}_spec")
)  # fmt: skip


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_has_a_target(page):
    """All linked files and headings exist."""
    assert broken_links(page) == []


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_heading(hook):
    """The author of a plugin can find each hook in docs/plugins.md by its name."""
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")

    assert any(hook in heading.split("(")[0].split() for heading in headings(page))


def test_anchors_match_those_of_hosting_services():
    """Headings become the same anchors as on the usual hosting services. Repeated headings get numbers."""
    page = "# What is `fire.lock()`?\n## Retry\n## Retry\n<a id='here'></a>\n"

    found = anchors(page)

    assert found == {"what-is-firelock", "retry", "retry-1", "here"}


def test_broken_link_is_reported(tmp_path):
    """A missing file and a missing heading are reported, and existing ones are not."""
    page = tmp_path / "page.md"
    page.write_text("# Here\n[a](page.md#here) [b](gone.md) [c](#there) [d](https://host.example/x)\n")

    assert broken_links(page) == ["gone.md", "#there"]
