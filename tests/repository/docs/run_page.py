"""Run a page's Python blocks one after the other in one namespace: `python run_page.py PAGE.md`.

A page is run in a process of its own, in an empty folder, as a reader would. A failing line is reported by
its number in the page. The module is `__main__`, as it is for a script; `await` may stand outside a function.
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

from tests.repository.docs.pages import python_blocks  # found only after the line above

sys.path[:2] = [str(Path.cwd())]


def run(page):
    """Every block of the page has run; the number of them is returned."""
    namespace = types.ModuleType("__main__")
    namespace.__file__ = str(Path.cwd() / f"{page.stem}.py")
    vars(namespace)["__builtins__"] = builtins  # what C code imports, such as strftime, is found through it
    sys.modules["__main__"] = namespace
    blocks = [block for block in python_blocks(page.read_text(encoding="utf-8")) if block.not_run is None]
    with asyncio.Runner() as runner:
        for block in blocks:
            run_block(block, page, namespace, runner)
    return len(blocks)


def run_block(block, page, namespace, runner):
    """One block has run in the page's namespace."""
    source = "\n" * (block.line - 1) + block.code  # so that line numbers are the page's
    code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    outcome = types.FunctionType(code, vars(namespace))()
    if inspect.iscoroutine(outcome):
        runner.run(outcome)


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve())
