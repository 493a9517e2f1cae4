"""Check claims about other systems: `python -m benchmarks.claims [NAME…]`; by default, all fast ones."""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.contenders import RESULTS, install
from benchmarks.redis_server import running

HERE = Path(__file__).parent
PROGRAMS = {path.stem: path for path in sorted((HERE / "programs").glob("*.py"))}
SLOW = ("killed_workers",)  # minutes


def claim(program: Path) -> str:
    """Return the claim of a program, which is the first line of its docstring."""
    return (ast.get_docstring(ast.parse(program.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def check(python: Path, program: Path, redis_url: str) -> tuple[bool, str]:
    """Return whether the claim is true, and the program's output."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "CLAIMS_REDIS": redis_url, "CLAIMS_DOCS": str(HERE.parents[1] / "docs")}
        run = subprocess.run(
            [python, program], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    printed = run.stdout.strip().splitlines()
    if run.returncode:
        printed += run.stderr.strip().splitlines()[-1:]
    return run.returncode == 0, "; ".join(printed)


def main() -> int:
    """Check the claims on the command line; return the exit code, 1 if a claim is false."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *PROGRAMS], metavar="NAME", help=", ".join(PROGRAMS))
    names = parser.parse_args().names or [name for name in PROGRAMS if name not in SLOW]
    python = install(HERE / "requirements.txt", RESULTS / ".claims", sys.executable)
    wrong = 0
    with tempfile.TemporaryDirectory(dir=RESULTS) as place, running(Path(place)) as redis:
        for name in names:
            redis.call("FLUSHALL")
            holds, printed = check(python, PROGRAMS[name], redis.url)
            wrong += not holds
            verdict = "holds" if holds else "DOES NOT HOLD"
            print(f"{verdict}  {name}: {claim(PROGRAMS[name])}\n    {printed}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
