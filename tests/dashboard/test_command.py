"""`firelock dashboard` as a process, and the example applications."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from firelock_dashboard.security.links import COOKIE, Links
from tests.dashboard.browser import FORM, Browser
from tests.dashboard.hosts import Place, WsgiVisitor

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def start(tmp_path):
    """Start `firelock dashboard` with these arguments; the process is killed at the end of the test."""
    running = []

    def start(*words, stdout=subprocess.PIPE, files=1_024, **environment):
        limited = ["/bin/sh", "-c", f'ulimit -n {files}; exec "$0" "$@"']
        process = subprocess.Popen(
            [*limited, sys.executable, "-m", "firelock", "dashboard", *words],
            cwd=tmp_path,
            stdout=stdout,
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


def fetch(address, path="", *, session=None, **headers):
    if session is not None:
        headers["Cookie"] = f"{COOKIE}={session}"
    request = urllib.request.Request(address + path, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status, answer.read().decode()


def firelock(tmp_path, *words):
    """Run a firelock command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "firelock", *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip


def session_by(link):
    """Exchange a link as its page does, and return the session."""
    address, _, token = link.partition("#")
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    headers = {"Content-Type": FORM, "Sec-Fetch-Site": "same-origin"}
    connection.request("POST", urlsplit(address).path, urlencode({"token": token}), headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert 303 == answer.status
    return SimpleCookie(answer.getheader("set-cookie")).popitem()[1].value


def address_of(process):
    """Return the address from the line in which the process reports it."""
    line = process.stdout.readline()
    found = re.search(r"http://[0-9.:\[\]]+/", line)
    assert found, line + process.stderr.read()
    return found[0].rstrip("/")


def test_command_serves_pages_until_interrupted(start, tmp_path):
    """The process prints its address, responds to requests, and exits with code 0 on Ctrl-C."""
    storage = f"sqlite:///{tmp_path / 'jobs.db'}"
    process = start("--storage", storage, "--port", "0", "--title", "Shop")
    address = address_of(process)
    link = firelock(tmp_path, "dashboard", "link", "--storage", storage, "--at", address)

    status, page = fetch(address, "/queues", session=session_by(link.stdout.strip()))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)

    assert 200 == status
    assert "Shop" in page
    assert (0, "") == (process.returncode, error)


@pytest.mark.parametrize(
    ("files", "clients"),
    [(256, 300), pytest.param(1_024, 1_100, marks=pytest.mark.heavy("opens 1,100 connections"))],
)
@pytest.mark.parametrize(
    "request_start",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"POST /enter HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nContent-Length: 9\r\n\r\n",
    ],
    ids=["nothing", "half a head", "no body"],
)
def test_unfinished_requests_do_not_lock_out_other_clients(start, tmp_path, files, clients, request_start):
    """Clients that do not log in open more connections than the process may have open files.

    They never finish their requests, but clients that connect later still get a response.
    """
    process = start("--storage", f"sqlite:///{tmp_path / 'jobs.db'}", "--port", "0", files=files)
    address = address_of(process)
    place = urlsplit(address)

    with ExitStack() as stack:
        for _ in range(clients):
            client = socket.create_connection((place.hostname, place.port), timeout=60)
            stack.callback(client.close)
            client.sendall(request_start)
        for _ in range(3):
            assert (200, "ok\n") == fetch(address, "/-/livez")
            assert (200, "ok\n") == fetch(address, "/-/readyz")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            fetch(address, "/queues")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)

    assert "Too many open files" not in error
    assert 1 == error.count("closing those that have waited longest")
    assert 0 == process.returncode


def test_link_is_printed_only_to_a_terminal(start, tmp_path):
    """A terminal shows a link. A file or a service's log contains only the command that creates a link."""
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    words = ("--storage", url, "--port", "0")
    ours, theirs = pty.openpty()
    logged = start(*words)
    shown = start(*words, stdout=theirs)
    os.close(theirs)

    with os.fdopen(ours) as terminal:
        printed = terminal.readline() + terminal.readline()
        address = address_of(logged)
        log = logged.stdout.readline()
        link = re.search(r"http://127[0-9.:]+/enter#[\w-]{43}", printed)
        assert link, printed

        assert 200 == fetch(link[0].partition("/enter")[0], "/queues", session=session_by(link[0]))[0]
        assert "#" not in log
        assert f"firelock dashboard link --storage {url} --at {address}/" in log
        for process in (logged, shown):
            process.kill()
            process.wait()


def test_command_for_a_link_is_printed_if_no_browser_can_be_opened(start, tmp_path):
    """If --open is used, a log contains the instruction only if no browser could be opened."""
    words = ("--storage", f"sqlite:///{tmp_path / 'jobs.db'}", "--port", "0", "--open")

    process = start(*words, BROWSER="/bin/false %s")

    address = address_of(process)
    assert "No browser could be opened.\n" == process.stdout.readline()
    printed = process.stdout.readline()
    assert printed.startswith("To sign in, open the link that this command prints: ")
    assert f"firelock dashboard link --storage {words[1]} --at {address}/\n" in printed


def test_storage_password_is_not_printed(start):
    """The printed command contains a placeholder instead of the URL.

    The storage does not have to be reachable.
    """
    logged = start("--storage", "redis://:hunter2@127.0.0.1:9", "--port", "0")

    printed = logged.stdout.readline() + logged.stdout.readline()

    assert "firelock dashboard link --storage URL --at" in printed
    assert "hunter2" not in printed


def test_open_option_opens_a_link(start, tmp_path):
    """The link signs the visitor in without a click, wherever the command's output is written."""
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    os.mkfifo(opened)
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {opened}\n')
    browser.chmod(0o755)
    words = ("--storage", f"sqlite:///{tmp_path / 'jobs.db'}", "--port", "0", "--open")

    start(*words, BROWSER=f"{browser} %s")
    link = opened.read_text()

    assert re.fullmatch(r"http://127[0-9.:]+/enter#open=[\w-]{43}", link)
    session = session_by(link.replace("open=", ""))
    assert 200 == fetch(link.partition("/enter")[0], "/queues", session=session)[0]


def test_link_command_creates_a_link_for_the_apps_dashboard(tmp_path):
    """The command accepts the app's name and the dashboard's address.

    With `--json`, the output is for programs.
    """
    (tmp_path / "shop.py").write_text(
        f"from firelock import Firelock\nfire = Firelock('sqlite:///{tmp_path / 'jobs.db'}')\n"
    )

    plain = firelock(tmp_path, "dashboard", "link", "shop:fire", "--at", "http://127.0.0.1:8000/jobs")
    program = firelock(tmp_path, "dashboard", "link", "shop:fire", "--json")

    assert re.fullmatch(r"http://127\.0\.0\.1:8000/jobs/enter#[\w-]{43}\n", plain.stdout), plain.stderr
    assert json.loads(program.stdout)["link"].startswith("http://127.0.0.1:8787/enter#")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("link", "--storage", "memory://"), "dashboard.link("),
        (("link", "--storage", "sqlite:///jobs.db", "--at", "jobs"), "'jobs'"),
        (("shop:fire", "more", "--storage", "memory://"), "'more'"),
        (("--storage", "memory://", "--port", "70000"), "70000"),
    ],
)
def test_invalid_usage_is_reported_in_a_sentence(tmp_path, words, message):
    """Usage errors include jobs in another process's memory, an invalid address or port, and extra words."""
    ran = firelock(tmp_path, "dashboard", *words)

    assert (2, "") == (ran.returncode, ran.stdout)
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


def test_dashboard_of_an_app_has_its_tasks(start, tmp_path):
    """If the application is known, the dashboard has a form for each of its tasks."""
    (tmp_path / "shop.py").write_text(
        "from firelock import Firelock\n"
        f"fire = Firelock('sqlite:///{tmp_path / 'jobs.db'}')\n"
        "@fire.task\n"
        "def pack(number: int) -> None: ...\n"
    )

    server = start("shop:fire", "--port", "0")
    address = address_of(server)
    assert f"firelock dashboard link shop:fire --at {address}/" in server.stdout.readline()
    link = firelock(tmp_path, "dashboard", "link", "shop:fire", "--at", address)
    session = session_by(link.stdout.strip())

    assert "shop.pack" in fetch(address, "/tasks", session=session)[1]
    assert 'name="args.number"' in fetch(address, "/tasks/run?name=shop.pack", session=session)[1]


def test_metrics_token_works_in_addition_to_the_password(start, tmp_path):
    """FIRELOCK_DASHBOARD_TOKEN allows a program to read metrics.

    Without the token, the password is still required.
    """
    words = ("--storage", f"sqlite:///{tmp_path / 'jobs.db'}", "--port", "0", "--user", "ops")
    secrets = {
        "FIRELOCK_DASHBOARD_PASSWORD": "a long one",
        "FIRELOCK_DASHBOARD_TOKEN": "a-token-of-a-scraper",
    }
    address = address_of(start(*words, **secrets))

    status, text = fetch(address, "/metrics", Authorization="Bearer a-token-of-a-scraper")
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        fetch(address, "/metrics")
    refused.value.close()

    assert 200 == status
    assert 'firelock_jobs{state="enqueued"} 0' in text


def test_too_short_token_error_names_its_variable(start, tmp_path):
    """The error names the environment variable, because the token is not configured anywhere else."""
    ran = start("--storage", f"sqlite:///{tmp_path / 'jobs.db'}", FIRELOCK_DASHBOARD_TOKEN="short")

    _, error = ran.communicate(timeout=30)

    assert 2 == ran.returncode
    assert "FIRELOCK_DASHBOARD_TOKEN: A token must have at least 16 characters" in error
    assert "short" not in error


def test_user_option_requires_a_password(start, tmp_path):
    """The password of --user comes from the environment, never from the command line."""
    words = ("--storage", f"sqlite:///{tmp_path / 'jobs.db'}", "--port", "0", "--user", "ada")
    address = address_of(start(*words, FIRELOCK_DASHBOARD_PASSWORD="a long one"))
    without = start(*words)

    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(address, "/queues")
    status, _ = fetch(address, "/queues", Authorization="Basic YWRhOmEgbG9uZyBvbmU=")
    _, error = without.communicate(timeout=30)

    refused.value.close()
    assert 401 == refused.value.code
    assert 200 == status
    assert 2 == without.returncode
    assert "FIRELOCK_DASHBOARD_PASSWORD" in error


# ---- examples --------------------------------------------------------------------------------------------


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Load an example application with the test's own storage."""
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


def test_fastapi_example_requires_credentials(example):
    """A visitor without credentials gets a 401. The operator sees the jobs that the shop has created."""
    shop = example("dashboard_fastapi")
    browser = Browser(shop.app)

    bought = browser.request("POST", "/orders/7", headers={"accept": "application/json"})
    refused = browser.get("/jobs/queues")
    program = browser.get("/jobs/api/jobs", headers={"authorization": "Bearer only-for-this-example"})
    browser.close()

    assert 200 == bought.status
    assert 401 == refused.status
    assert bought.json()["job"] == program.json()["jobs"][0]["id"]


def test_starlette_example_has_two_dashboards(example):
    """One dashboard is opened with a link and can be operated from this machine.

    The other is read-only for the company's users.
    """
    shop = example("dashboard_starlette")
    browser = Browser(shop.app)
    token = Links(shop.fire).make("http://localhost/jobs").rpartition("#")[2]

    assert 401 == browser.get("/jobs/queues").status
    assert 303 == browser.post("/jobs/enter", {"token": token}).status
    assert 200 == browser.get("/jobs/queues").status
    assert 403 == browser.get("/board/queues").status
    assert 200 == browser.get("/board/queues", headers={"x-house-user": "ada"}).status
    assert 405 == browser.post("/board/queues/pause", {"queue": "a"}, headers={"x-house-user": "ada"}).status
    browser.close()


def test_flask_example_admits_logged_in_users(example):
    """A user who is logged in with Flask-Login may operate the dashboard.

    Other visitors may not even read it.
    """
    shop = example("dashboard_flask")
    visitor = WsgiVisitor(shop.app, Place())

    refused = visitor.get("/jobs/queues")
    visitor.post("/login/ada", {})
    known = visitor.get("/jobs/queues")

    assert refused.status in {401, 403}
    assert 200 == known.status
    assert "ada" in known.text


def test_django_example_admits_staff(start):
    """Visitors who are not logged in are redirected to the login.

    The example runs in its own process, because Django can be configured only once per process.
    """
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

    assert ["302", "200 True", "403", "303", "403"] == ran.stdout.splitlines(), ran.stderr
