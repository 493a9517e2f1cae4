"""The texts of the dashboard are in one place, and templates and views refer to them by key.

Templates and views contain no texts of their own, and there are no unused texts.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import firelock_dashboard
from firelock_dashboard.web.rendering import show_turns
from firelock_dashboard.web.texts import Texts

SOURCE = Path(firelock_dashboard.__file__).parent
TEMPLATES = sorted((SOURCE / "templates").rglob("*.html"))
MODULES = sorted(SOURCE.rglob("*.py"))
CODE = {"pre", "kbd", "code"}
VOID = {"input", "br", "img", "hr", "path", "rect"}
# Names and symbols that are the same in every language.
NEUTRAL = {
    "Firelock",
    "Ctrl",
    "K",
    "g",
    "Esc",
    "p50",
    "p95",
    "ms",
    "s",
    "JSON",
    "UTC",
    "CSV",
    "NDJSON",
    "PNG",
    "true",
    "false",
}


def source(file):
    return file.read_text("utf-8")


class Words(HTMLParser):
    """A parser that collects the words that people read or hear.

    These are the text outside of code, and the attributes that screen readers read aloud.
    """

    def __init__(self):
        super().__init__()
        self.found = set()
        self._codes = 0

    def handle_starttag(self, tag, attributes):
        classes = (dict(attributes).get("class") or "").split()
        if self._codes or tag in CODE or "code" in classes:
            self._codes += tag not in VOID
        for name, value in attributes:
            if name in {"aria-label", "placeholder", "title", "alt"}:
                self._add(value or "")

    def handle_endtag(self, tag):
        if self._codes and tag not in VOID:
            self._codes -= 1

    def handle_data(self, data):
        if not self._codes:
            self._add(data)

    def _add(self, text):
        text = re.sub(r'[\w-]+="[^"]*"', " ", text)  # attributes that a macro adds
        self.found |= set(re.findall(r"[A-Za-z]{2,}", text))


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_templates_contain_no_text(file):
    """All text between tags and in visible attributes comes from keys."""
    words = Words()

    words.feed(re.sub(r"\{#.*?#\}|\{\{.*?\}\}|\{%.*?%\}", " ", source(file), flags=re.DOTALL))
    words.close()

    assert set() == words.found - NEUTRAL


def named():
    """Return the complete keys in the source, and the beginnings of the keys that are composed."""
    whole, begun = set(), set()
    for file in TEMPLATES:
        text = source(file)
        whole |= set(re.findall(r'\bt\(\s*"([a-z_]+\.[a-zA-Z0-9_]+)"\s*[,)]', text))
        whole |= set(re.findall(r'"([a-z_]+\.[a-z0-9_]+)"', text))
        begun |= set(re.findall(r'\bt\(\s*"([a-z_]+\.[a-z0-9_]*)"\s*~', text))
    for file in MODULES:
        text = source(file)
        whole |= set(re.findall(r'"([a-z_]+\.[a-z0-9_]+)"', text))
        begun |= set(re.findall(r'f"([a-z_]+\.[a-z0-9_]*)\{', text))
    return whole, begun


def test_every_referenced_text_exists():
    """If a template used a key that has no text, the page would fail."""
    texts = Texts()
    groups = {key.partition(".")[0] for key in texts}

    referenced = set()
    for file in TEMPLATES:
        referenced |= set(re.findall(r'\bt\(\s*"([a-z_]+\.[a-zA-Z0-9_]+)"\s*[,)]', source(file)))
    for file in MODULES:
        referenced |= set(re.findall(r'\.texts?\(\s*"([a-z_]+\.[a-z0-9_]+)"', source(file)))

    assert groups
    assert set() == {key for key in referenced if key not in texts}


def test_every_text_is_used():
    """Nobody should have to translate an unused text."""
    whole, begun = named()

    left = {key for key in Texts() if key not in whole and not any(key.startswith(one) for one in begun)}
    assert set() == left


def test_text_is_formatted_with_values_and_plural():
    """Values replace the names in braces, and a number selects the singular or the plural."""
    texts = Texts()

    assert "rendered in 3 ms" == texts("shared.rendered_in", time="3 ms")
    assert texts("tasks.for_good", count=1)
    with pytest.raises(KeyError):
        texts("shared.no_such_text")


# ---- characters that change the text direction -----------------------------------------------------------

TURNS = [chr(one) for one in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))]


@pytest.mark.parametrize("sign", TURNS, ids=ascii)
def test_direction_characters_are_escaped_in_visible_text(sign):
    """Characters that change the text direction are escaped between tags and in visible attributes.

    Form values and link targets keep them.
    """
    html = f'<a href="/x" title="a{sign}b"><input name="id" value="a{sign}b">a{sign}b</a>'
    out = f"\\u{ord(sign):04x}"

    assert f'<a href="/x" title="a{out}b"><input name="id" value="a{sign}b">a{out}b</a>' == show_turns(html)


def test_pages_escape_direction_characters(fire, client):
    """An argument, a queue's note and a path are shown as they are stored, with these characters escaped."""

    @fire.task(name="turn")
    def turn(name: str) -> None: ...

    job = turn.enqueue("gnp\u202eexe")
    fire.queues.pause("mail", note="why\u202enot", by="ada")
    pages = ("/", "/jobs", f"/jobs/{job.id}", "/queues", "/tasks", "/activity", "/nothing/%E2%80%AE")

    texts = {page: client.get(page).text for page in pages}
    message = client.act("/queues/pause", {"queue": "\u202e"}).json()["message"]

    shown = {page: re.sub(r"<[^>]*>", "", text) for page, text in texts.items()}
    assert {page: [] for page in pages} == {
        page: [ascii(sign) for sign in TURNS if sign in text] for page, text in shown.items()
    }
    assert "gnp\\u202eexe" in shown[f"/jobs/{job.id}"]
    assert "\u202e" not in message
