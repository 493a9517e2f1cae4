"""All names that our migration pages import from other libraries exist."""

from __future__ import annotations

import ast
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from markdown_it import MarkdownIt

looked_up = 0
for page in sorted(Path(os.environ["CLAIMS_DOCS"]).glob("coming-from-*.md")):
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type != "fence" or token.info != "python":
            continue
        for node in ast.walk(ast.parse(token.content)):
            if isinstance(node, ast.ImportFrom) and find_spec(node.module.partition(".")[0]):
                for alias in node.names:
                    assert hasattr(import_module(node.module), alias.name), (page.name, alias.name)
                    looked_up += 1
print(f"{looked_up} names are there")
