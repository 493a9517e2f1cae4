"""Convert the repository's pages to pages of the site: adapt their links, headings and lists."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from scripts.site import reference
from scripts.site.markdown import ROOT, heading_anchors, links, tokens

# The names on the site of pages outside of docs/.
_OUTSIDE_DOCS = {
    "README.md": "why.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/claims/README.md": "claims.md",
    "tests/README.md": "tests.md",
}
_SOURCES = "source"  # the site's folder for pages that show linked files of the repository
_SHOWN = {".py": "python", ".toml": "toml", ".txt": "text", ".lua": "lua", ".yml": "yaml", ".yaml": "yaml",
          ".json": "json", ".service": "ini", ".sh": "bash", "": "text"}  # fmt: skip
_UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n"


def stage(folder: Path) -> None:
    """Write all pages of the site to the folder, as Markdown, with their images."""
    site = {page: name_on_site(page) for page in sorted(ROOT.glob("docs/**/*.md"))}
    site |= {ROOT / page: name for page, name in _OUTSIDE_DOCS.items() if (ROOT / page).exists()}
    shown: dict[Path, str] = {}
    for page, name in site.items():
        _write(folder / name, adapted(page, name, site, shown))
    for file in sorted(shown):
        _write(folder / shown[file], _listing(file))
    for name, text in reference.pages(sorted(ROOT.glob("packages/*/src"))).items():
        _write(folder / "reference" / name, text)
    for image in ROOT.glob("docs/**/*"):
        if image.suffix in {".svg", ".png", ".webp", ".webm", ".css"}:
            target = folder / image.relative_to(ROOT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image, target)


def name_on_site(page: Path) -> str:
    """Return the path on the site of a page in docs; the README of a folder becomes its index."""
    name = page.relative_to(ROOT / "docs")
    return (name.with_name("index.md") if name.name == "README.md" else name).as_posix()


def adapted(page: Path, name: str, site: Mapping[Path, str], shown: dict[Path, str]) -> str:
    """Return the page's text for the site; add linked files that the site must show to `shown`."""
    text = page.read_text(encoding="utf-8")
    lines = _with_wide_lists(_with_anchors(text))
    text = "\n".join(lines)
    for target in sorted(set(links(text)), key=len, reverse=True):
        if not re.match(r"[a-z][a-z+.-]*:|#", target):
            text = _relinked(text, target, _place(page, name, target, site, shown))
    return text


def _with_anchors(text: str) -> list[str]:
    """Return the lines, in which each heading has the anchor that links use."""
    lines = text.split("\n")
    for line, anchor in heading_anchors(text):
        if lines[line].startswith("#"):
            lines[line] = f"{lines[line].rstrip()} {{#{anchor}}}"
    return lines


def _with_wide_lists(lines: list[str]) -> list[str]:
    """Return the lines, in which list items are indented by four columns, as Python-Markdown requires."""
    inside = [(token, token.map) for token in tokens("\n".join(lines)) if token.map]
    shifts = dict.fromkeys(range(len(lines)), 0)
    for token, (first, end) in inside:
        if token.type == "list_item_open":
            width = len(token.markup) + len(token.info) + 1
            for line in range(first + 1, end):
                shifts[line] += 4 - width
    wide = [" " * shifts[number] + line if line.strip() else line for number, line in enumerate(lines)]
    starts = {first for token, (first, _) in inside if token.type.endswith("_list_open")}
    return [
        part
        for number, line in enumerate(wide)
        for part in (("", line) if number in starts and number and wide[number - 1].strip() else (line,))
    ]


def _place(
    page: Path, name: str, target: str, site: Mapping[Path, str], shown: dict[Path, str]
) -> str | None:
    """Return the target of a page's link on the site, or None if the site does not have the target."""
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve()
    here = PurePosixPath(name).parent
    if file in site:
        place = site[file]
    elif file.is_relative_to(ROOT / "docs") and file.is_file():
        place = file.relative_to(ROOT / "docs").as_posix()
    elif file.is_file() and file.suffix in _SHOWN:
        place = shown.setdefault(file, f"{_SOURCES}/{file.relative_to(ROOT).as_posix()}.md")
    else:
        return None
    return os.path.relpath(place, here) + (f"#{anchor}" if anchor else "")


def _relinked(text: str, target: str, place: str | None) -> str:
    if place is not None:
        return text.replace(f"]({target})", f"]({place})").replace(f'="{target}"', f'="{place}"')
    return re.sub(rf"\[([^\]\[]*)\]\({re.escape(target)}\)", r"\1", text)


def _listing(file: Path) -> str:
    """Return a page that shows a file of the repository."""
    text = file.read_text(encoding="utf-8")
    fence = "`" * max(3, *(1 + len(ticks) for ticks in re.findall(r"`+", text)), 3)
    title = file.relative_to(ROOT).as_posix()
    return f"{_UNSEARCHED}\n# `{title}`\n\n{fence}{_SHOWN[file.suffix]}\n{text.rstrip()}\n{fence}\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
