"""Two third-party distributions that use only Firelock's public interfaces: built, installed and run.

They are installed from their wheels into a separate environment, which finds Firelock and pytest in the
current one. Nothing is downloaded. Their long runs start together, and each test waits for its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import attrs
import pytest

HERE = Path(__file__).parent
DISTRIBUTIONS = ("firelock-files", "firelock-extras")
DEADLINE = 250.0


@attrs.frozen
class Environment:
    """An environment with the third-party distributions, and its folder."""

    folder: Path

    @property
    def python(self):
        """The path of its interpreter."""
        return str(self.folder / "venv" / "bin" / "python")

    def start(self, *arguments, within=None):
        """Start a program in this environment."""
        variables = {name: text for name, text in os.environ.items() if not name.startswith("FIRELOCK_")}
        return subprocess.Popen(
            [self.python, *arguments], cwd=within or self.folder, env=variables | {"PYTHONPATH": ""},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *arguments, within=None):
        """Run a program in this environment, which must succeed; return its output."""
        return output(self.start(*arguments, within=within))


def output(process):
    """Return the output of a program, which must succeed."""
    try:
        written, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert process.returncode == 0, written
    return written


def tool(*command, within):
    """Run a tool of the current environment, which must succeed."""
    done = subprocess.run(command, cwd=within, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment with both distributions, which are built from copies of their folders.

    They are installed from their wheels.
    """
    folder = tmp_path_factory.mktemp("distributions")
    uv = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")
    assert uv, "uv is not installed; `make setup` installs it"
    for name in DISTRIBUTIONS:
        shutil.copytree(HERE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        tool(sys.executable, "-m", "hatchling", "build", "-d", str(folder / "dist"), within=folder / name)
    tool(uv, "venv", "--offline", "--no-cache", "--python", sys.executable, "venv", within=folder)
    made = Environment(folder)
    wheels = [str(path) for path in sorted((folder / "dist").glob("*.whl"))]
    install = ("pip", "install", "--offline", "--no-cache", "--no-deps", "--python", made.python)
    tool(uv, *install, *wheels, within=folder)
    own = made.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    ours = sysconfig.get_path("purelib")
    Path(own, "firelock_and_pytest.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return made


@pytest.fixture(scope="module")
def runs(environment):
    """The long runs by name. All of them are started, and ended with the fixture."""
    folder = environment.folder
    tests = partial(environment.start, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    # The distributions' own tests run the whole kit; this run only checks the command line.
    first = "life or claim"
    kit = partial(tests, "-W", "error", "-k", first, "--pyargs")
    started = {name: tests(within=folder / name) for name in DISTRIBUTIONS}
    started["storage"] = kit("firelock.testing.test_storage", "--storage", f"files://{folder}/kit?sync=off")
    started["locks"] = kit("firelock.testing.test_locks", "--storage", f"flock://{folder}/locks")
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def test_distributions_are_complete(environment):
    """The wheel contains only the package and the entry point.

    The source distribution also contains the tests and the README.
    """
    for name in DISTRIBUTIONS:
        package = name.replace("-", "_")
        stem = environment.folder / "dist" / f"{package}-1.0.0"

        with zipfile.ZipFile(f"{stem}-py3-none-any.whl") as wheel:
            folders = {path.partition("/")[0] for path in wheel.namelist()}
            entry_points = wheel.read(f"{package}-1.0.0.dist-info/entry_points.txt").decode()
        with tarfile.open(f"{stem}.tar.gz") as source:
            places = {path.split("/")[1] for path in source.getnames()}

        assert {package, f"{package}-1.0.0.dist-info"} == folders
        assert entry_points.startswith("[firelock]\n")
        assert {"src", "tests", "README.md", "pyproject.toml"} <= places


def test_installed_plugin_is_found(environment):
    """Firelock finds both plugins by their entry points and lists their names, versions and hooks."""
    listing = json.loads(environment.run("-m", "firelock", "plugins", "--json"))["plugins"]

    found = {one["name"]: (one["distribution"], one["version"], one["hooks"]) for one in listing}
    assert ("firelock-files", "1.0.0", ["register_storages"]) == found["files"]
    assert (
        "firelock-extras", "1.0.0", ["register_lock_providers", "register_serializers", "retry_decision"]
    ) == found["extras"]  # fmt: skip


def test_plugin_can_be_disabled(environment):
    """Without the plugin, its URL scheme is unknown, and the error explains why."""
    program = "import os; os.environ['FIRELOCK_PLUGINS'] = '-files'; import firelock as fl; fl.Firelock('files:///x')"

    process = environment.start("-c", program)
    written, _ = process.communicate(timeout=DEADLINE)

    assert process.returncode != 0
    assert "UnknownScheme: No storage for scheme 'files'" in written
    assert "FIRELOCK_PLUGINS=-files excludes files." in written


@pytest.mark.parametrize(
    ("run", "subject", "not_offered"),
    [
        ("storage", "files", r", 3 skipped, \d+ not offered \(notify, row locks, transactional enqueue\)"),
        ("locks", "FolderLocks", ""),
    ],
)
def test_kit_passes_from_the_command_line(runs, run, subject, not_offered):
    """`pytest --pyargs` tests a storage and a lock provider by their URLs.

    All tests pass, except those of features that they do not offer.
    """
    written = output(runs[run])

    assert re.search(rf"^{subject} conformance: \d+ passed{not_offered}$", written, re.MULTILINE), written


@pytest.mark.parametrize(
    ("distribution", "subjects"),
    [
        ("firelock-files", ["files", "files server", "FileStorage"]),
        ("firelock-extras", ["FolderLocks", "retry policy RetryAfter", "serializer zjson"]),
    ],
)
def test_distribution_passes_its_own_tests(runs, distribution, subjects):
    """The tests of the distributions include the classes of the conformance kit."""
    written = output(runs[distribution])

    for subject in subjects:
        line = rf"^{subject} conformance: \d+ passed(, \d+ not offered .*)?$"
        assert re.search(line, written, re.MULTILINE), written


APP = """
from firelock import Firelock, JobContext

fire = Firelock("files://FOLDER/jobs", serializer="zjson", locks="flock://FOLDER/locks")


class Busy(Exception):
    retry_after = 0.05


@fire.task
def count(job: JobContext, words: list[str]) -> int:
    if job.retries == 0:
        raise Busy
    with fire.lock("count"):
        return len(words)
"""

CLIENT = """
from app import count, fire

job = count.enqueue(["word"] * 1_000)
print(job.id, job.result(timeout=60))
fire.close()
"""


def test_job_is_shared_by_several_processes(environment, tmp_path):
    """One program enqueues a job and waits for it, a server runs the job, and another program reads it.

    All of them use the third-party storage, serializer and locks.
    """
    (tmp_path / "app.py").write_text(APP.replace("FOLDER", str(tmp_path)))
    (tmp_path / "client.py").write_text(CLIENT)
    firelock = ("-m", "firelock")

    server = environment.start(*firelock, "server", "app:fire", within=tmp_path)
    try:
        job_id, result = environment.run("client.py", within=tmp_path).split()
    finally:
        server.terminate()
        output(server)
    show = (*firelock, "--app", "app:fire", "--json", "jobs", "show", job_id)
    job = json.loads(environment.run(*show, within=tmp_path))

    assert ("1000", "1000") == (result, job["result"])
    assert job["arguments"].startswith("z:")
    assert "the service requested a wait of 0.05 s" in [entry["reason"] for entry in job["history"]]
    assert {"jobs", "locks"} <= {path.name for path in tmp_path.iterdir()}
