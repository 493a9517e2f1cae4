"""Every hook is documented in one shape and tested by name."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache

import pytest

import firelock_dashboard.hookspecs
from firelock.plugins.loader import hookspecs
from tests.repository.docs.pages import ROOT, headings, python_blocks, tokens
from tests.repository.sources import sources_of_tests

PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
HOOKS = {
    name: function
    for brought in (hookspecs, firelock_dashboard.hookspecs)
    for name, function in inspect.getmembers(brought, inspect.isfunction)
    if hasattr(function, f"{hookspecs.PROJECT}_spec")
}
LABELS = ["Called:", "How often:", "Arguments:", "Result:", "Exceptions:"]
FIRST_RESULT = "The first plugin that answers something other than None decides, and no other is asked."


def signature(function):
    """The hook as it is called: `job_context(job, task)`."""
    return f"{function.__name__}({', '.join(inspect.signature(function).parameters)})"


def is_first_result(function):
    """True where the first answer decides."""
    return bool(getattr(function, f"{hookspecs.PROJECT}_spec")["firstresult"])


@cache
def page_tokens(text):
    """The tokens of a page: read once for all hooks."""
    return tokens(text)


def section(text, heading):
    """The plain text below a heading, up to the next one, on one line."""
    found, is_inside, is_heading = [], False, False
    for token in page_tokens(text):
        if token.type == "heading_open":
            is_heading, is_inside = True, False
        elif token.type == "inline":
            content = "".join(child.content or " " for child in token.children)
            if is_heading:
                is_inside, is_heading = content == heading, False
            elif is_inside:
                found.append(content)
    return " ".join(" ".join(found).split())


@cache
def implementations(text):
    """Name and parameters of each function that the page's code marks as a hook's implementation."""
    return list(_implementations(text))


def _implementations(text):
    for block in python_blocks(text):
        for node in ast.walk(ast.parse(block.code)) if block.not_run is None else ():
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(mark, ast.Name) and mark.id == "hookimpl" for mark in node.decorator_list
            ):
                yield node.name, [each.arg for each in node.args.args if each.arg != "self"]


@cache
def names_of_tests():
    """The name of every test function."""
    return {
        node.name
        for source in sources_of_tests()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("function", HOOKS.values(), ids=HOOKS)
def test_a_hook_s_heading_is_its_signature(function):
    """Whoever changes a hook's arguments changes its heading."""
    assert signature(function) in list(headings(PAGE))


@pytest.mark.parametrize("function", HOOKS.values(), ids=HOOKS)
def test_a_hook_says_when_how_often_and_what_of_exceptions(function):
    """Each section answers the same five questions in the same order."""
    text = section(PAGE, signature(function))

    assert re.findall("|".join(LABELS), text) == LABELS


@pytest.mark.parametrize("function", HOOKS.values(), ids=HOOKS)
def test_a_hook_with_a_first_answer_says_so_in_the_same_words(function):
    """The fixed sentence stands where the first answer decides, and nowhere else."""
    text = section(PAGE, signature(function))

    assert is_first_result(function) == (FIRST_RESULT in text)


@pytest.mark.parametrize("function", HOOKS.values(), ids=HOOKS)
def test_a_hook_has_a_plugin_that_runs(function):
    """The page's code, which is run, implements the hook with all of its arguments."""
    shown = implementations(PAGE)

    assert (function.__name__, list(inspect.signature(function).parameters)) in shown


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_has_a_test(name):
    """A test that begins with the hook's name shows what it does."""
    assert [test for test in names_of_tests() if test.startswith(f"test_{name}_")] != []


def test_a_section_ends_at_the_next_heading():
    """What a neighbour says does not count."""
    page = "# `a(x)`\n\n- **Called:** here\n\n## `b()`\n\nthere\n"

    assert section(page, "a(x)") == "Called: here"
