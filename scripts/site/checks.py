"""Checks of the built site: all links have a target, and nothing is loaded from another host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADING = {"script": "src", "img": "src", "iframe": "src", "video": "src", "link": "href"}
_FOREIGN = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//")


class BuiltPage(HTMLParser):
    """A page of the built site, with the files that it loads, its links and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = {"", "__skip"}
        self.counts: dict[str, int] = {}
        self._depth_of_article = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the anchors, links and files of an element."""
        named = {name: value or "" for name, value in attrs}
        self.anchors |= {named[name] for name in ("id", "name") if name in named}
        if tag == "article":
            self._depth_of_article += 1
        if self._depth_of_article:
            self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag in _LOADING and _LOADING[tag] in named:
            is_page = named.get("rel") in {"prev", "next", "canonical"}
            (self.links if is_page else self.loads).append(named[_LOADING[tag]])
        elif tag == "source" and "srcset" in named:
            self.loads.append(named["srcset"])
        elif tag == "a" and "href" in named:
            self.links.append(named["href"])

    def handle_endtag(self, tag: str) -> None:
        """Note the end of an article."""
        if tag == "article":
            self._depth_of_article -= 1


class BuiltSite:
    """The folder of a built site."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def pages(self) -> dict[Path, BuiltPage]:
        """The pages by path, except the page that is shown for missing addresses."""
        paths = [path for path in sorted(self.folder.rglob("*.html")) if path.name != "404.html"]
        return {path: BuiltPage(path) for path in paths}

    def broken_links(self) -> Iterator[str]:
        """Yield each link, script, style and image whose target does not exist in the site."""
        for path, page in self.pages.items():
            for target in [*page.links, *page.loads]:
                if not self._has_target(path, target):
                    yield f"{path.relative_to(self.folder)}: {target}"

    def foreign(self) -> Iterator[str]:
        """Yield each address on another host from which a page or a style would load a file."""
        for path, page in self.pages.items():
            for target in page.loads:
                if urlsplit(target).netloc:
                    yield f"{path.relative_to(self.folder)}: {target}"
        for style in sorted(self.folder.rglob("*.css")):
            for found in _FOREIGN.findall(style.read_text(encoding="utf-8")):
                yield f"{style.relative_to(self.folder)}: {found}"

    def size(self) -> int:
        """Return the total size of all files, in bytes."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def _has_target(self, path: Path, target: str) -> bool:
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            return True  # links to other hosts are not checked
        file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if file.is_dir():
            file /= "index.html"
        if not file.exists():
            return False
        return file not in self.pages or unquote(parts.fragment) in self.pages[file].anchors
