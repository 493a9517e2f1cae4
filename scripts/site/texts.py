"""The site as plain text for programs: `llms.txt`, `llms-full.txt`, and the Markdown of each page."""

from __future__ import annotations

import re
import shutil
import tomllib
from itertools import groupby
from pathlib import Path

from scripts.site.navigation import places

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_ANCHOR = re.compile(r" \{#[^}\n]+\}$", re.MULTILINE)
_APART = ("Reference", "Project")  # long sections, which llms-full.txt leaves out


def write(staged: Path, site: Path, configuration: str) -> None:
    """Write the Markdown of each page next to it, `llms.txt` with the contents, and `llms-full.txt`."""
    project = tomllib.loads(configuration)["project"]
    for page in staged.rglob("*.md"):
        target = site / page.relative_to(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, target)
    head = f"# {project['site_name']}\n\n> {project['site_description']}\n"
    lines, whole = [head], [head]
    for section, inside in groupby(places(configuration), key=lambda place: place.section):
        lines.append(f"\n## {section}\n\n")
        for place in inside:
            text = plain((staged / place.page).read_text(encoding="utf-8"))
            lines.append(f"- [{place.title}]({place.page}): {lead(text)}\n")
            if section not in _APART:
                whole.append(f"\n\n<!-- {place.page} -->\n\n{text.strip()}\n")
    (site / "llms.txt").write_text("".join(lines), encoding="utf-8")
    (site / "llms-full.txt").write_text("".join(whole), encoding="utf-8")


def plain(text: str) -> str:
    """Return a page without the parts that only the site's builder uses."""
    return _ANCHOR.sub("", _FRONT_MATTER.sub("", text))


def lead(text: str) -> str:
    """Return the first sentence after the title."""
    paragraphs = [part.strip() for part in text.split("\n\n")[1:]]
    first = next((part for part in paragraphs if part and part[0] not in "#`<|!-"), "")
    sentence = re.split(r"(?<=[.:])\s", " ".join(first.split()), maxsplit=1)[0]
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", sentence)
