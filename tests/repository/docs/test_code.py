"""The documentation's code runs as printed."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.repository.docs.pages import ROOT, code_pages, python_blocks

RUN_PAGE = Path(__file__).with_name("run_page.py")


def run(page, folder):
    """Run a page as a reader would: in a separate process and an empty folder; every warning is an error."""
    command = [sys.executable, "-W", "error", str(RUN_PAGE), str(page)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250, check=False)


@pytest.mark.parametrize("page", code_pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_of_a_page_runs(page, tmp_path):
    """Every block that is marked as python runs after the previous blocks of the page."""
    outcome = run(page, tmp_path)

    assert outcome.returncode == 0, outcome.stderr


def test_blocks_share_the_namespace_of_the_page(tmp_path):
    """A block can use names from earlier blocks and `await` anywhere.

    Blocks in other languages are ignored.
    """
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n```python\nimport asyncio\nx = 1\n```\n"
        "```console\n$ exit 1\n```\n"
        "- in a list\n\n  ```python\n  await asyncio.sleep(0)\n  print(x + 1)\n  ```\n"
    )

    outcome = run(page, tmp_path)

    assert (outcome.stdout, outcome.stderr, outcome.returncode) == ("2\n", "", 0)


def test_failure_contains_the_line_of_the_page(tmp_path):
    """If a block fails, the page fails, and the error contains the line number on the page."""
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1\nassert x == 2\n```\n")

    outcome = run(page, tmp_path)

    assert outcome.returncode == 1
    assert f'File "{page}", line 5' in outcome.stderr


def test_warning_fails_a_page(tmp_path):
    """Code in the documentation must not cause warnings."""
    page = tmp_path / "page.md"
    page.write_text("```python\nimport warnings\nwarnings.warn('old', DeprecationWarning)\n```\n")

    outcome = run(page, tmp_path)

    assert outcome.returncode == 1


LEFT_OUT = [
    pytest.param(block.code, id=f"{page.relative_to(ROOT).as_posix()}:{block.line}")
    for page in code_pages()
    if "not run:" in (text := page.read_text(encoding="utf-8"))  # each test worker evaluates this
    for block in python_blocks(text)
    if block.not_run
]


# Part of Django 6, which needs a newer Python than the oldest supported one.
NEWER = {"django.tasks"}


@pytest.mark.parametrize("code", LEFT_OUT)
def test_excluded_block_is_valid_python(code):
    """The block compiles, and all names that it imports from installed packages exist."""
    tree = ast.parse(code)
    compile(code, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    assert [name for name in imported(tree) if not exists(*name)] == []


def imported(tree):
    """Yield the module and name of each `from module import name`, if the module's package is installed."""
    for node in ast.walk(tree):
        is_from = isinstance(node, ast.ImportFrom) and node.module not in NEWER
        if is_from and find_spec(node.module.partition(".")[0]):
            yield from ((node.module, alias.name) for alias in node.names)


def exists(module, name):
    """Return whether the name exists; names in `dir` and modules are not loaded, since some need settings."""
    if name in dir(found := import_module(module)) or hasattr(found, name):
        return True
    return hasattr(found, "__path__") and find_spec(f"{module}.{name}") is not None


def test_missing_name_is_reported():
    """For example, another project may have renamed a function that the block imports."""
    tree = ast.parse("from celery import shared_task, shared_tusk\nfrom shop.jobs import fire")

    assert [name for name in imported(tree) if not exists(*name)] == [("celery", "shared_tusk")]


def test_block_is_excluded_only_with_a_reason():
    """`not run` must be followed by a reason, and applies only to the block directly below it."""
    block = "```python\nx\n```\n"

    reasons = [
        each.not_run
        for each in python_blocks(f"<!-- not run: x -->\n{block}{block}<!-- not run: -->\n{block}")
    ]

    assert reasons == ["x", None, None]
