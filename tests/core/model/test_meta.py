"""The metadata of a job, stored as a string that another program might have written."""

from __future__ import annotations

import pytest

from firelock.model.meta import check_meta, read_meta, write_meta


@pytest.mark.parametrize(
    "meta", [{}, {"a": ""}, {"b": '"', "a": "\\é\U0001f525"}, {"trace-state_1": "x" * 2_000}]
)
def test_written_metadata_is_read_unchanged(meta):
    """The order of names does not matter. Empty metadata is not written."""
    text = write_meta(check_meta(meta))

    assert meta == read_meta(text)
    assert (text is None) == (not meta)
    assert text == write_meta(dict(reversed(meta.items())))


@pytest.mark.parametrize("text", ["", "{", "7", "[1]", "null", '"a"', "[" * 100_000, 7, b"\xff"])
def test_invalid_metadata_is_read_as_empty(text):
    """Invalid metadata must not prevent a job from being shown or run."""
    assert {} == read_meta(text)


def test_metadata_values_are_read_as_strings():
    """Therefore, the values can be used in a page, a log and a header."""
    assert {"a": "7", "b": "None", "c": "{'d': 1}", "\\ud800": "\\udfff"} == read_meta(
        '{"a":7,"b":null,"c":{"d":1},"\\ud800":"\\udfff"}'
    )
