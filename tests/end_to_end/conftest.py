"""What commands and pages are tested with."""

from __future__ import annotations

import pytest

from tests.end_to_end.cli_run import Run


@pytest.fixture
def run(capsys):
    """Run a command in this process: its exit code, and what it wrote."""
    return Run(capsys)
