"""`python -m tests.faults.program NAME ARGUMENTS`: a module of this folder at work in a process of its own.

It is called by its `main`, with the arguments, a list in JSON; what that returns is printed in JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path


def run_program(place, name, *arguments):
    """Return what the module answers, given the place's storage, a folder of its own and these arguments."""
    folder = place.folder / name
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.faults.program", name]
    with (place.folder / f"{name}.log").open("w") as log:
        done = subprocess.run(
            [*command, json.dumps([place.storage, str(folder), *arguments])],
            env=place.environment(), stdout=subprocess.PIPE, stderr=log, check=True, text=True, timeout=3_600,
        )  # fmt: skip
    return json.loads(done.stdout)


if __name__ == "__main__":
    url, path, *rest = json.loads(sys.argv[2])
    answer = import_module(f"tests.faults.{sys.argv[1]}").main(url, Path(path), *rest)
    sys.stdout.write(json.dumps(answer))
