"""docs/django.md, followed from an empty folder with Django's own commands and the files on the page."""

from __future__ import annotations

import contextlib
import http.cookiejar
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

import attrs
import pytest

from firelock.testing import eventually
from tests.core.integrations.django.versions import ROOT, VERSIONS, Djangos
from tests.ports import free_port
from tests.repository.docs.pages import python_blocks

pytestmark = pytest.mark.heavy("a project of Django's, its servers and environments")

PAGE = ROOT / "docs" / "django.md"
PACKAGES = [str(ROOT / "packages" / name) for name in ("core", "backend-sql", "dashboard")]
DEADLINE = 60
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def djangos(tmp_path_factory):
    """The available versions of Django, each with Firelock installed."""
    return Djangos(tmp_path_factory.mktemp)


@pytest.fixture(params=VERSIONS)
def python(djangos, request):
    """A Python with this version of Django and Firelock."""
    found = djangos.python(request.param)
    if found != sys.executable:
        subprocess.run(
            [found, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", *PACKAGES],
            check=True, timeout=600,
        )  # fmt: skip
    return found


@attrs.frozen
class Walk:
    """The project from the page, in a folder."""

    folder: object
    python: str

    def run(self, *words, **environment):
        done = subprocess.run(
            [self.python, *words], cwd=self.folder, env=without_settings(environment), capture_output=True,
            text=True, timeout=DEADLINE * 2, check=False,
        )  # fmt: skip
        assert 0 == done.returncode, done.stdout + done.stderr
        return done.stdout

    @contextlib.contextmanager
    def running(self, *words):
        """Run a process of the project during the block, and stop it at the end."""
        process = subprocess.Popen(
            [self.python, "manage.py", *words], cwd=self.folder, env=without_settings({}),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            process.wait(DEADLINE)
        finally:
            process.kill()
            process.wait()


def without_settings(more):
    """Return the environment without any settings for Django or Firelock."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "FIRELOCK_"))}
    return {**own, **more}


def files_of_page():
    """Yield each file on the page: its path from the first line, whether it is appended, and its text."""
    for block in python_blocks(PAGE.read_text(encoding="utf-8")):
        if found := re.match(r"# (\w+/\w+\.py)(, at its end)?\n", block.code):
            yield found[1], found[2] is not None, block.code


def open_browser():
    """Return an opener that keeps cookies and follows redirects."""
    return urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))


def read(browser, address, form=None):
    """Return the final URL and the text of a page."""
    data = None if form is None else urllib.parse.urlencode(form).encode()
    with browser.open(urllib.request.Request(address, data, {"Referer": address}), timeout=DEADLINE) as page:
        return page.geturl(), page.read().decode()


def log_in(browser, address):
    """Follow a URL to the login, and log in; return the URL after the login and its page."""
    login, form = read(browser, address)
    assert "/admin/login/" in login
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))
    return read(browser, login, {**hidden, "username": "root", "password": PASSWORD})


def answered(browser, address):
    """Return the page at the URL, or None while no server listens."""
    try:
        return read(browser, address)[1]
    except urllib.error.HTTPError:
        raise
    except OSError:
        return None


def with_words(page, words):
    """Return the page if it contains the words, or None."""
    return page if words in page else None


def test_page_leads_from_an_empty_folder_to_the_dashboard(tmp_path, python):
    """The test does what a reader does: startproject, the page's files, migrate, two terminals, a browser."""
    walk = Walk(tmp_path, python)
    walk.run("-m", "django", "startproject", "mysite", ".")
    walk.run("manage.py", "startapp", "shop")
    for path, is_end, text in files_of_page():
        with (tmp_path / path).open("a" if is_end else "w", encoding="utf-8") as file:
            file.write(f"\n{text}")
    walk.run("manage.py", "makemigrations", "shop")
    assert "Firelock: Created the tables" in walk.run("manage.py", "migrate")
    account = {"DJANGO_SUPERUSER_USERNAME": "root", "DJANGO_SUPERUSER_PASSWORD": PASSWORD}
    walk.run("manage.py", "createsuperuser", "--noinput", "--email", "root@example.com", **account)
    port, browser = free_port(), open_browser()
    site = f"http://127.0.0.1:{port}"

    with walk.running("firelock", "server"), walk.running("runserver", "--noreload", str(port)):
        bought = eventually(lambda: answered(browser, f"{site}/buy/ann"), within=DEADLINE)
        job = re.fullmatch(r"order 1, job (\S+)\n", bought)[1]
        place, _ = log_in(browser, f"{site}/firelock/")
        assert f"{site}/firelock/" == place
        page = eventually(
            lambda: with_words(read(browser, f"{site}/firelock/jobs/{job}")[1], "receipt sent to ann"),
            within=DEADLINE,
        )

    assert "shop.tasks.send_receipt" in page
    assert "order:1" in page
    jobs = json.loads(walk.run("manage.py", "firelock", "jobs", "list", "--json"))["jobs"]
    assert ["succeeded"] == [each["state"] for each in jobs]
    assert "no issues" in walk.run("manage.py", "check", "--tag", "firelock", "--deploy")
    walk.run("manage.py", "test")
