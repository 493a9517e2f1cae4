"""`python -m tests.faults.program NAME ARGUMENTS`: run a module of this folder in a separate process.

Its `main` gets the arguments, a JSON list. The return value is printed as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path


def run_program(place, name, *arguments):
    """Return the result of the module's `main` with the place's storage, a new folder and these arguments."""
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
