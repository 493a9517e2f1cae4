"""Run a page's Python blocks one after the other in one namespace: `python run_page.py PAGE.md`.

A page runs in a separate process, in an empty folder, as for a reader. An error is reported with the line
number in the page. The module is `__main__`, as for a script, and `await` is allowed outside a function.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import sys
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.repository.docs.pages import python_blocks  # only found after the line above

sys.path[:2] = [str(Path.cwd())]


def run(page):
    """Run every block of the page; return their number."""
    namespace = types.ModuleType("__main__")
    namespace.__file__ = str(Path.cwd() / f"{page.stem}.py")
    vars(namespace)["__builtins__"] = builtins  # C code, such as strftime, finds its imports through it
    sys.modules["__main__"] = namespace
    blocks = [block for block in python_blocks(page.read_text(encoding="utf-8")) if block.not_run is None]
    with asyncio.Runner() as runner:
        for block in blocks:
            run_block(block, page, namespace, runner)
    return len(blocks)


def run_block(block, page, namespace, runner):
    """Run one block in the page's namespace."""
    source = "\n" * (block.line - 1) + block.code  # so that line numbers are those of the page
    code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    outcome = types.FunctionType(code, vars(namespace))()
    if inspect.iscoroutine(outcome):
        runner.run(outcome)


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve())
