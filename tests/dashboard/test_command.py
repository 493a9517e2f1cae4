"""`firelock dashboard` as a process, and the example applications."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.dashboard.asking import Browser
from tests.dashboard.hosts import Place, WsgiVisitor

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def start(tmp_path):
    """Start `firelock dashboard` with these words; what runs is stopped at the end."""
    running = []

    def start(*words, **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", "firelock", "dashboard", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), **environment},
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def asked(address, path="", **headers):
    request = urllib.request.Request(address + path, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status, answer.read().decode()


def address_of(process):
    """Wait for the line that tells where it listens."""
    line = process.stdout.readline()
    found = re.search(r"http://[0-9.:\[\]]+/", line)
    assert found, line + process.stderr.read()
    return found[0].rstrip("/")


def test_it_serves_pages_until_it_is_interrupted(start, tmp_path):
    """It says where it listens, answers, and ends with 0 on Ctrl-C."""
    process = start("--storage", f"sqlite:///{tmp_path / 'jobs.db'}", "--port", "0", "--title", "Shop")
    address = address_of(process)

    status, page = asked(address, "/queues")
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)

    assert 200 == status
    assert "Shop" in page
    assert (0, "", "") == (process.returncode, out, error)


def test_an_app_brings_its_tasks(start, tmp_path):
    """With the application at hand there is a form for each task."""
    (tmp_path / "shop.py").write_text(
        "from firelock import Firelock\n"
        f"fire = Firelock('sqlite:///{tmp_path / 'jobs.db'}')\n"
        "@fire.task\n"
        "def pack(number: int) -> None: ...\n"
    )

    address = address_of(start("shop:fire", "--port", "0"))

    assert "shop.pack" in asked(address, "/tasks")[1]
    assert 'name="args.number"' in asked(address, "/tasks/run?name=shop.pack")[1]


def test_a_password_is_asked_for(start, tmp_path):
    """--user takes the password from the environment, never from the command line."""
    words = ("--storage", f"sqlite:///{tmp_path / 'jobs.db'}", "--port", "0", "--user", "ada")
    address = address_of(start(*words, FIRELOCK_DASHBOARD_PASSWORD="a long one"))
    without = start(*words)

    with pytest.raises(urllib.error.HTTPError) as refused:
        asked(address, "/queues")
    status, _ = asked(address, "/queues", Authorization="Basic YWRhOmEgbG9uZyBvbmU=")
    _, error = without.communicate(timeout=30)

    refused.value.close()
    assert 401 == refused.value.code
    assert 200 == status
    assert 2 == without.returncode
    assert "FIRELOCK_DASHBOARD_PASSWORD" in error


def test_a_wrong_port_is_a_sentence(start):
    """What cannot be listened at is said, with no traceback."""
    process = start("--storage", "memory://", "--port", "70000")

    _, error = process.communicate(timeout=30)

    assert 2 == process.returncode
    assert "70000" in error
    assert "Traceback" not in error


# ---- examples --------------------------------------------------------------------------------------------


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Load an example application on a storage of the test's own."""
    loaded = []

    def example(name):
        monkeypatch.setenv("FIRELOCK_STORAGE", f"sqlite:///{tmp_path / 'shop.db'}")
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        loaded.append(module)
        return module

    yield example
    for module in loaded:
        module.fire.close()


def test_the_fastapi_example_asks_for_a_name(example):
    """Strangers get a 401; the operator sees the jobs that the shop made."""
    shop = example("dashboard_fastapi")
    browser = Browser(shop.app)

    bought = browser.ask("POST", "/orders/7", headers={"accept": "application/json"})
    stranger = browser.get("/jobs/queues")
    program = browser.get("/jobs/api/jobs", headers={"authorization": "Bearer only-for-this-example"})
    browser.close()

    assert 200 == bought.status
    assert 401 == stranger.status
    assert bought.json()["job"] == program.json()["jobs"][0]["id"]


def test_the_starlette_example_has_two_dashboards(example):
    """One to operate for this machine, one to look at for the house."""
    shop = example("dashboard_starlette")
    browser = Browser(shop.app)

    assert 200 == browser.get("/jobs/queues").status
    assert 403 == browser.get("/board/queues").status
    assert 200 == browser.get("/board/queues", headers={"x-house-user": "ada"}).status
    assert 405 == browser.post("/board/queues/pause", {"queue": "a"}, headers={"x-house-user": "ada"}).status
    browser.close()


def test_the_flask_example_lets_in_who_is_logged_in(example):
    """Flask-Login's user may operate; nobody else may look."""
    shop = example("dashboard_flask")
    visitor = WsgiVisitor(shop.app, Place())

    stranger = visitor.get("/jobs/queues")
    visitor.post("/login/ada", {})
    known = visitor.get("/jobs/queues")

    assert stranger.status in {401, 403}
    assert 200 == known.status
    assert "ada" in known.text


def test_the_django_example_is_for_staff(start):
    """In a process of its own, as Django is configured once: nobody is logged in, so nobody may look."""
    program = (
        "import importlib.util, io\n"
        f"spec = importlib.util.spec_from_file_location('shop', {str(EXAMPLES / 'dashboard_django.py')!r})\n"
        "import sys\n"
        "shop = importlib.util.module_from_spec(spec)\n"
        "sys.modules['shop'] = shop\n"
        "spec.loader.exec_module(shop)\n"
        "from django.core.management import call_command\n"
        "call_command('migrate', verbosity=0)\n"
        "from django.contrib.auth.models import User\n"
        "from django.test import Client\n"
        "client = Client(SERVER_NAME='localhost')\n"
        "print(client.get('/jobs/queues').status_code)\n"
        "client.force_login(User.objects.create_user('ada', is_staff=True))\n"
        "answer = client.get('/jobs/queues')\n"
        "print(answer.status_code, 'ada' in answer.content.decode())\n"
        "print(client.post('/jobs/queues/pause', {'queue': 'mail'}).status_code)\n"
        "own = {'HTTP_SEC_FETCH_SITE': 'same-origin', 'content_type': 'application/x-www-form-urlencoded'}\n"
        "print(client.post('/jobs/queues/pause', 'queue=mail', **own).status_code)\n"
        "print(client.post('/jobs/recurring/create', 'id=x', **own).status_code)\n"
    )

    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "FIRELOCK_STORAGE": "memory://"},
    )

    assert ["403", "200 True", "403", "303", "403"] == ran.stdout.splitlines(), ran.stderr
