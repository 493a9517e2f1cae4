"""Fixtures for the tests of commands and pages."""

from __future__ import annotations

import pytest

from tests.end_to_end.cli_run import Run


@pytest.fixture
def run(capsys):
    """Return a function that runs a command in this process and returns its exit code and output."""
    return Run(capsys)
