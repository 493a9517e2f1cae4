"""The documentation for its tests: pages, code blocks, headings and links."""

from __future__ import annotations

import re

import attrs

from scripts.site.markdown import ROOT, anchors, headings, links, tokens

__all__ = ["ROOT", "Block", "all_pages", "anchors", "broken_links", "code_pages", "headings", "links",
           "python_blocks", "tokens"]  # fmt: skip

PLACES = ("*.md", "docs/**/*.md", "packages/*/*.md", "tests/*.md")

# <!-- not run: needs a mail server --> on the line above a block excludes the block, with a reason.
_NOT_RUN = re.compile(r"<!--\s*not run:\s*(?P<reason>\S.*?)\s*-->\s*$")


@attrs.frozen
class Block:
    """A block of Python code in a page."""

    line: int  # the line number of its first line of code, from 1
    code: str
    not_run: str | None  # the reason for its exclusion


def code_pages():
    """Return the pages whose Python blocks are run: the README and each page in docs with such a block."""
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    return [page for page in pages if "```python" in page.read_text(encoding="utf-8")]


def all_pages():
    """Return every page of the project, in order of the paths."""
    return sorted(page for pattern in PLACES for page in ROOT.glob(pattern))


def python_blocks(text):
    """Return the blocks marked python, in order, including those in lists and quotes."""
    before = ""
    blocks = []
    for token in tokens(text):
        if token.type == "fence" and token.map and token.info.split()[:1] == ["python"]:
            reason = _NOT_RUN.search(before)
            blocks.append(Block(token.map[0] + 2, token.content, reason["reason"] if reason else None))
        before = token.content if token.type == "html_block" else ""
    return blocks


def broken_links(page):
    """Return the links to files or headings that do not exist; links to other hosts are not checked."""
    return [
        target
        for target in links(page.read_text(encoding="utf-8"))
        if not re.match(r"[a-z][a-z+.-]*:", target) and not leads_somewhere(page, target)
    ]


def leads_somewhere(page, target):
    """Return whether the linked file exists and has the linked heading."""
    path, _, anchor = target.partition("#")
    destination = (page.parent / path).resolve() if path else page
    if not destination.exists():
        return False
    if anchor and destination.suffix == ".md":
        return anchor in anchors(destination.read_text(encoding="utf-8"))
    return True


def table_rows(text, head):
    """Return the cells of every row of every table with this head."""
    found, row, is_ours = [], [], False
    for token in tokens(text):
        match token.type:
            case "tr_open":
                row = []
            case "inline":
                row = [*row, token.content]
            case "thead_close":
                is_ours = row == head
            case "tr_close" if is_ours:
                found.append(row)
            case "table_close":
                is_ours = False
    return found
