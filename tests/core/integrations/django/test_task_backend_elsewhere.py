"""The backend with every supported Django version, and with Django's own tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tests.core.integrations.django.versions import ROOT, VERSIONS, Djangos
from tests.repository.docs.pages import python_blocks

pytestmark = pytest.mark.heavy("installs Django versions into separate environments")
HERE = Path(__file__).parent
# A smaller number means that `tasks_own` no longer runs some tests.
FEWEST = {"5.2": 65, "6.0": 65, "6.1": 70}


@pytest.fixture(scope="module")
def djangos(tmp_path_factory):
    """Return the environments and sources, which are installed and downloaded only once."""
    return Djangos(tmp_path_factory.mktemp)


def run(python, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [python, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_django_s_own_task_tests_pass(djangos, version, tmp_path):
    """The tests check the contract of every backend.

    The module `tasks_own` lists the omitted tests with the reasons.
    """
    shutil.copytree(djangos.own_tests(version), tmp_path / "tasks")

    done = run(djangos.python(version), "-W", "error", str(HERE / "tasks_own.py"), str(tmp_path))

    summary = json.loads((done.stdout.splitlines() or ["{}"])[-1])
    assert summary, done.stderr
    assert ([], True) == (summary["broken"], summary["run"] >= FEWEST[version]), done.stderr
    assert summary["django"].startswith(version)


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_backend_tests_pass_with_newer_django_versions(djangos, version):
    """The other test runs use only the oldest supported version."""
    words = ["-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]

    done = run(djangos.python(version), *words, str(HERE / "test_task_backend.py"))

    assert 0 == done.returncode, done.stdout[-4000:]


@pytest.mark.parametrize("version", VERSIONS)
def test_documented_project_returns_a_result(djangos, version, tmp_path):
    """The test starts with an empty folder and uses Django's commands and the files from the page."""
    project = PageProject(djangos.python(version), tmp_path, version)
    project.make()

    checked = project.manage("check")
    result_id, status = project.manage("shell", program=project.enqueue).split()[-2:]
    with project.server():
        read = project.manage("shell", program=project.reading(result_id))

    assert "no issues" in checked
    assert "READY" == status
    assert read.strip().endswith("SUCCESSFUL Good morning, ann!")


JOINED = """
from django.contrib.auth import get_user_model
from django.db import transaction
from firelock.integrations.django import fire
from shop.tasks import welcome

try:
    with transaction.atomic():
        user = get_user_model().objects.create_user("bob")
        gone = welcome.enqueue(user.pk)
        raise InterruptedError
except InterruptedError:
    pass

with transaction.atomic():
    kept = welcome.enqueue(1)
    before = fire.jobs.counts().total

print([before, fire.jobs.counts().total, welcome.get_result(kept.id) == kept])
"""


def test_enqueue_is_part_of_the_current_transaction(djangos, tmp_path):
    """If jobs are in the project database, a rollback removes the job and a commit makes it visible."""
    project = PageProject(djangos.python("5.2"), tmp_path, "5.2")
    project.make()

    output = project.manage("shell", program=f"exec({JOINED!r})")

    assert "[0, 1, True]" == output.splitlines()[-1]


APART = """
import os
from django.contrib.auth import get_user_model

@task(executor="process")
def apart():
    return [os.getpid(), get_user_model().objects.count()]
"""
RUN_APART = """
import os
from firelock.integrations.django import fire
from shop.tasks import apart

with fire.server(workers=1):
    pid, users = fire.jobs.get(apart.enqueue().id).result(timeout=60)

print([pid == os.getpid(), users])
"""


def test_task_runs_in_a_job_process(djangos, tmp_path):
    """Django is set up in this process, and the tasks of the apps are registered."""
    project = PageProject(djangos.python("5.2"), tmp_path, "5.2")
    project.make(tasks=APART)

    output = project.manage("shell", program=f"exec({RUN_APART!r})")

    assert "[False, 0]" == output.splitlines()[-1]


@attrs.define
class PageProject:
    """The project that `docs/django-tasks.md` describes."""

    python: str
    folder: Path
    version: str

    def make(self, tasks=""):
        """Create the project in the folder, with these tasks after those of the page, and its tables."""
        settings, shown, *_ = self.blocks
        self.run("-m", "django", "startproject", "mysite", ".")
        self.manage("startapp", "shop")
        with (self.folder / "mysite" / "settings.py").open("a", encoding="utf-8") as file:
            file.write(settings)
            if self.version == "5.2":
                file.write('INSTALLED_APPS += ["django_tasks"]\n')
        (self.folder / "shop" / "tasks.py").write_text(shown + tasks, encoding="utf-8")
        self.manage("migrate", "-v", "0")

    @property
    def blocks(self):
        page = (ROOT / "docs" / "django-tasks.md").read_text(encoding="utf-8")
        text = page.replace("django.tasks import", "django_tasks import") if self.version == "5.2" else page
        return [block.code for block in python_blocks(text)[:4]]

    @property
    def enqueue(self):
        return self.blocks[2]

    def reading(self, result_id):
        """Return the program from the page that reads a result, after code that waits for the job."""
        wait = "from firelock.integrations.django import fire; fire.jobs.get(result_id).result(timeout=60)"
        return f"result_id = {result_id!r}\n{wait}\n{self.blocks[3]}"

    def manage(self, *words, program=None):
        return self.run("manage.py", *words, program=program)

    def run(self, *words, program=None):
        done = subprocess.run(
            [self.python, *words], cwd=self.folder, input=program, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert 0 == done.returncode, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def server(self):
        """Run the project's server within the block."""
        words = [self.python, "manage.py", "firelock", "server", "--workers", "1"]
        with subprocess.Popen(
            words, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server:
            try:
                yield
            finally:
                server.terminate()
