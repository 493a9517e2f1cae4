"""The site is built completely from the pages and the docstrings, and loads nothing from other hosts."""

from __future__ import annotations

import inspect
from collections import Counter
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from scripts.site.__main__ import main
from scripts.site.checks import BuiltPage, BuiltSite
from scripts.site.navigation import places
from scripts.site.reference import DOORS, Reference
from scripts.site.staging import name_on_site
from scripts.site.texts import lead
from tests.repository.docs.pages import ROOT

# Elements whose number on the site must equal the number in the rendering of the hosting service.
COUNTED = ("h1", "h2", "h3", "h4", "p", "ul", "ol", "li", "pre", "code", "table", "tr", "td", "em", "strong")
CONTENTS = (ROOT / "zensical.toml").read_text(encoding="utf-8")


class Counted(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = Counter()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as `make site` builds it."""
    return main([str(tmp_path_factory.mktemp("site"))])


def test_every_link_of_the_site_has_a_target(site):
    """All pages, anchors, images, styles and scripts to which a page refers exist."""
    assert list(site.broken_links()) == []


def test_site_loads_nothing_from_another_host(site):
    """The site works without a network, and the browsers of readers do not send requests to other hosts."""
    assert list(site.foreign()) == []


def test_site_shows_the_contents_of_the_pages(site):
    """Each page has as many headings, lists, tables and code blocks as the hosting service shows."""
    forge = MarkdownIt("commonmark").enable("table")
    differing = {}
    for page in sorted(ROOT.glob("docs/**/*.md")):
        name = Path(name_on_site(page)).with_suffix(".html")
        want, got = (
            Counted(forge.render(page.read_text(encoding="utf-8"))).tags,
            site.pages[site.folder / name],
        )
        for tag in COUNTED:
            if want[tag] != got.counts.get(tag, 0):
                differing[str(name), tag] = want[tag], got.counts.get(tag, 0)

    assert differing == {}


def test_every_page_is_in_the_contents(site):
    """Every page needs a line in zensical.toml, so that readers can find it."""
    placed = {place.page for place in places(CONTENTS)}

    built = {page.relative_to(site.folder).with_suffix(".md").as_posix() for page in site.pages}

    assert {page for page in built if not page.startswith("source/")} == placed


def test_no_page_is_in_the_contents_twice():
    named = Counter(place.page for place in places(CONTENTS))

    assert {page: times for page, times in named.items() if times > 1} == {}


@pytest.fixture(scope="module")
def reference():
    return Reference(sorted(ROOT.glob("packages/*/src")))


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.module)
def test_every_public_name_is_in_the_reference(door, reference):
    """A module exports exactly the names on its reference page, which is built only from the source code."""
    module = import_module(door.module)
    defined = [
        name for name, one in vars(module).items() if inspect.isclass(one) and name not in {"Any", "Mapping"}
    ]
    offered = getattr(module, "__all__", None) or defined
    modules = {name for name in offered if inspect.ismodule(getattr(module, name))}

    documented = {name for name in reference.names(door) if not name.startswith("fire.")}

    assert set(offered) - modules == documented


def test_every_integration_is_in_the_reference(reference):
    """Each module of `firelock.integrations` has its own page."""
    folder = ROOT / "packages" / "core" / "src" / "firelock" / "integrations"
    shared = {"carrier", "request_meta"}  # shared by several integrations
    modules = [path for path in folder.iterdir() if not path.name.startswith("_") and path.stem not in shared]
    there = {path.stem for path in modules if path.suffix in {".py", ""}}

    documented = {
        door.module.rpartition(".")[2] for door in reference.doors() if ".integrations." in door.module
    }

    assert there == documented


def test_reference_contains_signature_errors_and_async_twin(reference):
    """The entry matches the source code, and the names in it link to their documentation."""
    page = reference.page(DOORS[0])

    _, _, section = page.partition("### `Job.requeue` {#Job.requeue}")
    section, _, _ = section.partition("\n### ")

    assert (
        "def requeue(*, from_step: str | None = None, reason: str = 'requeued by code') -> Job[R]: ..."
        in section
    )
    assert "- [`JobConflict`](errors.md#JobConflict): " in section
    assert "`arequeue` is the async variant." in section
    assert "## `fire.queues` {#fire.queues}" in page
    assert "_Anything" not in page


def test_long_signature_has_one_line_per_parameter(reference):
    """The star before keyword-only parameters is on a separate line too."""
    _, _, section = reference.page(DOORS[0]).partition("### `Task.using` {#Task.using}")

    assert "def using(\n    *,\n    queue: str | None = None,\n" in section


def test_llms_txt_lists_the_pages(site):
    """The pages are available next to this file as plain text."""
    listed = (site.folder / "llms.txt").read_text(encoding="utf-8")

    first = "This tutorial takes half an hour and needs one file and no running service."
    assert f"- [Tutorial](tutorial.md): {first}" in listed
    assert (site.folder / "tutorial.md").read_text(encoding="utf-8").startswith("# Tutorial")


def test_lead_of_a_page_is_its_first_sentence():
    """Code, tables and quotes before the first sentence are skipped, and the targets of links are removed."""
    assert lead("# T\n\n```python\nx\n```\n\nSee [this](a.md) first. Then that.") == "See this first."


def test_broken_links_and_other_hosts_are_reported(tmp_path):
    """The report contains a missing page, a missing anchor, and a script and a font from another host."""
    (tmp_path / "a.html").write_text(
        '<a href="b.html#x"></a><a href="gone.html"></a><a href="https://host.example/">y</a>'
        '<script src="https://host.example/s.js"></script>'
    )
    (tmp_path / "b.html").write_text("<p id='y'></p>")
    (tmp_path / "c.css").write_text("a { src: url(//host.example/font.woff2) }")
    site = BuiltSite(tmp_path)

    assert list(site.broken_links()) == ["a.html: b.html#x", "a.html: gone.html"]
    assert list(site.foreign()) == ["a.html: https://host.example/s.js", "c.css: url(//"]


def test_only_the_article_is_counted(tmp_path):
    """Elements outside the article, such as the table of contents, are not counted."""
    (tmp_path / "a.html").write_text("<ul><li></li></ul><article><ul><li></li></ul></article><p></p>")

    assert BuiltPage(tmp_path / "a.html").counts == {"article": 1, "ul": 1, "li": 1}
