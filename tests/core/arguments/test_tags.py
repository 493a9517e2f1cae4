"""Tags built from arguments: templates are checked at registration, values at the call."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firelock.arguments.signature import compile_binder
from firelock.arguments.tags import check_tag_templates, format_tags
from firelock.errors import ArgumentError, TaskError


@pytest.mark.parametrize(
    ("template", "value", "tag"),
    [
        ("user:{x}", 42, "user:42"),
        ("user:{x}", "ann lee", "user:ann lee"),
        ("{x}", "é", "é"),
        ("{x}-{x}", True, "true-true"),
        ("{x}", None, "null"),
        ("{x}", 1.5, "1.5"),
        ("{{x}}:{x}", 1, "{x}:1"),
        ("plain", 1, "plain"),
        ("user:{x}", "{y.__class__}", "user:{y.__class__}"),
    ],
)
def test_tag_is_the_template_filled_with_the_stored_values(template, value, tag):
    """Strings are inserted as they are, other values as JSON. A value is never read as a template."""
    check_tag_templates([template], ["x"])

    assert (tag,) == format_tags([template], {"x": value})


def test_equal_tags_are_stored_once():
    assert ("b", "a") == format_tags(["{x}", "a", "{y}"], {"x": "b", "y": "a"})


def test_default_of_an_omitted_argument_is_inserted():
    """The default is inserted in its stored form, like a passed value."""

    def run(x: int, day: date = date(2026, 1, 1), other: object = print) -> None: ...

    binder = compile_binder(run, task="tests.run")
    encoded = binder.encode((1,), {})

    assert ("1:2026-01-01",) == format_tags(["{x}:{day}"], encoded, defaults=binder.defaults)
    with pytest.raises(ArgumentError, match="uses 'other', which is omitted; its default cannot be stored"):
        format_tags(["{other}"], encoded, defaults=binder.defaults)


@pytest.mark.parametrize(
    ("templates", "words"),
    [
        ("user:{x}", "tags must be a list, got the string 'user:{x}'. Use tags="),
        ([5], "A tag must be a string, got int"),
        (["{y}"], "Tag '{y}' contains 'y', which it cannot use. Usable parameters: x"),
        (["{x.id}"], "contains more than plain names: use only {name} in braces"),
        (["{x!r}"], "contains more than plain names"),
        (["{x:>5}"], "contains more than plain names"),
        (["{}"], "contains more than plain names"),
        (["{x"], "is not a valid template: expected '}' before end of string"),
        (["x}"], "is not a valid template"),
        ([""], "is empty"),
        (["a\nb{x}"], "contains characters that are not printable"),
        (["y" * 101], "has 101 characters; at most 100 are allowed"),
        (["a"] * 21, "A job can have at most 20 tags, got 21"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_invalid_tag_template_is_refused_at_registration(templates, words):
    """Braces can contain only plain parameter names, so a tag cannot access the attributes of an object."""
    with pytest.raises(TaskError) as caught:
        check_tag_templates(templates, ["x"])

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1], "uses 'x', which is stored as list; only strings and numbers can"),
        ({}, "which is stored as dict"),
        ("", "is empty, with these arguments"),
        ("x" * 101, "has 101 characters"),
        ("a\tb", "are not printable"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_value_that_a_tag_cannot_contain_is_refused(value, words):
    """The caller gets the error before anything is stored."""
    with pytest.raises(ArgumentError) as caught:
        format_tags(["{x}"], {"x": value})

    assert words in str(caught.value)


@given(template=st.text("{}x.!:[]0a ", max_size=12), value=st.text(max_size=5) | st.integers())
def test_accepted_template_produces_a_tag_or_an_argument_error(template, value):
    """A template or a value never causes any other error."""
    try:
        check_tag_templates([template], ["x", "a"])
        (tag,) = format_tags([template], {"x": value, "a": 1})
    except (ArgumentError, TaskError):
        return

    assert tag.isprintable()
    assert 1 <= len(tag) <= 100
