"""Count the product's size in tokens: `python -m benchmarks.sizes [FOLDER …] [--since COMMIT] [--files]`.

Python is counted with its own tokenizer, without comments, docstrings and line ends; SQL and Lua by words,
strings and symbols, without comments. Unlike lines, tokens cannot be merged without changing the amount to
read. The seed, which users do not get, is left out on both sides of a comparison.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import tokenize
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

_SUFFIXES = (".py", ".lua", ".sql")
_SILENT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip
_WORDS = re.compile(r"""--\[\[.*?\]\]|--[^\n]*|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\w+|[^\s\w]""", re.DOTALL)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_SEED = re.compile(r"/cli/(seed_\w+|demo_seed)\.py\Z|/seed/")


def count_tokens(name: str, text: str) -> int:
    """Return the number of tokens in a file."""
    if not name.endswith(".py"):
        return sum(1 for word in _WORDS.findall(text) if not word.startswith("--"))
    docstrings = {
        (node.body[0].lineno, node.body[0].col_offset)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None
    }
    return sum(
        token.type not in _SILENT and not (token.type == tokenize.STRING and token.start in docstrings)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
    )


def count_files(texts: Mapping[str, str]) -> Mapping[str, int]:
    """Return the tokens of each file that is part of the product or its tests."""
    seeds = {name for name in texts if _SEED.search(name)}
    if any(name.endswith("/cli/seed_story.py") for name in seeds):  # where the seed was in the wheel,
        seeds |= {name for name in texts if name.endswith("/cli/demo_shop.py")}  # so was its shop
    return {name: count_tokens(name, text) for name, text in texts.items() if name not in seeds}


def files_here(folder: str) -> Mapping[str, str]:
    """Return the current texts of a folder."""
    names = _git("ls-files", "--cached", "--others", "--exclude-standard", folder).splitlines()
    return {name: Path(name).read_text(encoding="utf-8") for name in _counted(names) if Path(name).is_file()}


def files_then(folder: str, commit: str) -> Mapping[str, str]:
    """Return the texts of a folder at a commit."""
    names = _git("ls-tree", "-r", "--name-only", commit, folder).splitlines()
    return {name: _git("show", f"{commit}:{name}") for name in _counted(names)}


def _counted(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.endswith(_SUFFIXES))


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout


def _described(folder: str, counts: Mapping[str, int]) -> str:
    kinds = Counter[str]()
    for name, tokens in counts.items():
        kinds[name.rpartition(".")[2]] += tokens
    parts = ", ".join(f"{kind} {tokens:,}" for kind, tokens in sorted(kinds.items()))
    return f"{folder:10} {sum(counts.values()):9,} tokens in {len(counts):3} files ({parts})"


def main() -> None:
    """Print the sizes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__)
    parser.add_argument("folder", nargs="*", default=["packages", "tests"], help="default: packages, tests")
    parser.add_argument("--since", metavar="COMMIT", help="compare with a commit")
    parser.add_argument("--files", action="store_true", help="also list each file")
    options = parser.parse_args()
    for folder in options.folder:
        now = count_files(files_here(folder))
        if options.files:
            for name, tokens in now.items():
                print(f"{tokens:9,}  {name}")
        print(_described(folder, now))
        if options.since:
            then = count_files(files_then(folder, options.since))
            ratio = sum(now.values()) / max(1, sum(then.values()))
            print(f"{_described(f'  {options.since}', then)}; now {ratio:.3f} of it")


if __name__ == "__main__":
    main()
