"""Every hook has documentation of the same form and a test with its name."""

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
FIRST_RESULT = (
    "The first plugin that returns something other than None decides, and no other plugin is called."
)


def signature(function):
    """Return the hook as it is called, for example `job_context(job, task)`."""
    return f"{function.__name__}({', '.join(inspect.signature(function).parameters)})"


def is_first_result(function):
    """Return whether the first result that is not None is used."""
    return bool(getattr(function, f"{hookspecs.PROJECT}_spec")["firstresult"])


@cache
def page_tokens(text):
    """Return the tokens of a page, which is read only once for all hooks."""
    return tokens(text)


def section(text, heading):
    """Return the plain text below a heading, up to the next one, on one line."""
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
    """Return the name and parameters of each function that the page's code marks as a hook implementation."""
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
    """Return the name of every test function."""
    return {
        node.name
        for source in sources_of_tests()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("function", HOOKS.values(), ids=HOOKS)
def test_heading_of_a_hook_is_its_signature(function):
    """If a hook's arguments change, its heading must change too."""
    assert signature(function) in list(headings(PAGE))


@pytest.mark.parametrize("function", HOOKS.values(), ids=HOOKS)
def test_section_of_a_hook_has_five_parts(function):
    """The parts describe when and how often the hook is called, and what happens on an exception."""
    text = section(PAGE, signature(function))

    assert re.findall("|".join(LABELS), text) == LABELS


@pytest.mark.parametrize("function", HOOKS.values(), ids=HOOKS)
def test_hook_with_a_deciding_first_result_has_the_fixed_sentence(function):
    """Only the section of a hook whose first result is used contains this sentence."""
    text = section(PAGE, signature(function))

    assert is_first_result(function) == (FIRST_RESULT in text)


@pytest.mark.parametrize("function", HOOKS.values(), ids=HOOKS)
def test_hook_has_an_example_that_runs(function):
    """The code on the page is run, and implements the hook with all of its arguments."""
    shown = implementations(PAGE)

    assert (function.__name__, list(inspect.signature(function).parameters)) in shown


@pytest.mark.parametrize("name", HOOKS)
def test_hook_has_a_test(name):
    """The name of at least one test begins with the hook's name."""
    assert [test for test in names_of_tests() if test.startswith(f"test_{name}_")] != []


def test_section_ends_at_the_next_heading():
    """Text in the next section does not count as part of the section."""
    page = "# `a(x)`\n\n- **Called:** here\n\n## `b()`\n\nthere\n"

    assert section(page, "a(x)") == "Called: here"
