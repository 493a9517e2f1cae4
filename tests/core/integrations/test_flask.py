"""Flask: the application context of jobs, metadata from requests, and `flask firelock`."""

from __future__ import annotations

import os
import sys
from textwrap import dedent

import pytest
from flask import Flask, current_app, g

from firelock import ConfigurationError, Firelock, Settings
from firelock.integrations.flask import FlaskJobs, request_id
from firelock.testing import Tester


class Shop:
    """A Flask application, and a Firelock app whose tasks need the application context."""

    def __init__(self, url="memory://", **sources):
        self.flask_jobs = FlaskJobs(**sources)
        self.fire = fire = Firelock(url, plugins=[self.flask_jobs], settings=Settings(poll=0.05, grace=5))
        self.torn_down = []

        @fire.task(name="greet")
        def greet() -> str:
            assert "seen" not in g
            g.seen = True
            return current_app.name

        @fire.task(name="agreet")
        async def agreet() -> str:
            g.seen = True
            return current_app.name

        @fire.task(name="fail")
        def fail() -> None:
            raise ValueError(current_app.name)

        self.greet, self.agreet, self.fail = greet, agreet, fail

    def web(self, **config):
        app = Flask("shop")
        app.config.update(config)
        self.flask_jobs.init_app(app, self.fire)
        app.teardown_appcontext(lambda error: self.torn_down.append(type(error).__name__))

        @app.get("/")
        def home():
            return {"meta": dict(self.greet.enqueue().meta), "id": request_id.get()}

        return app


@pytest.fixture
def shop():
    return Shop()


# ---- application contexts --------------------------------------------------------------------------------


def test_each_job_has_its_own_application_context(shop):
    """This applies to `def` and `async def` tasks. The teardown of the context receives the job's error."""
    shop.web()
    with Tester(shop.fire) as tester:
        jobs = [shop.greet.enqueue(), shop.greet.enqueue(), shop.agreet.enqueue()]
        tester.drain(raises=True)
        assert ["shop"] * 3 == [job.result() for job in jobs]

        shop.fail.enqueue()
        tester.drain()

    assert ["NoneType", "NoneType", "NoneType", "ValueError"] == shop.torn_down
    assert not current_app


def test_jobs_of_an_embedded_server_have_an_application_context(shop):
    """This applies to jobs in threads and on the event loop."""
    shop.web()
    with shop.fire, shop.fire.server(workers=2, async_workers=2):
        jobs = [shop.greet.enqueue(), shop.agreet.enqueue()]
        assert ["shop", "shop"] == [job.result(timeout=20) for job in jobs]


def test_job_without_an_application_fails_with_a_fix(shop):
    """This error occurs in a test that has not created an application."""
    with Tester(shop.fire) as tester:
        shop.greet.enqueue()
        with pytest.raises(ConfigurationError, match=r"call init_app\(app, fire\) first"):
            tester.drain(raises=True)


def test_configuration_sets_the_storage(tmp_path):
    """In processes that create jobs, the configuration replaces the storage that is set in the code.

    The configuration can also disable the header of the request id.
    """
    shop = Shop()
    url = f"sqlite:///{tmp_path}/jobs.db"
    app = shop.web(FIRELOCK_STORAGE=url, FIRELOCK_REQUEST_ID_HEADER=None)

    answer = app.test_client().get("/", headers={"X-Request-ID": "abc-1"})

    assert shop.fire is app.extensions["firelock"]
    assert (tmp_path / "jobs.db").is_file()
    assert "x-request-id" not in answer.headers
    assert 32 == len(answer.json["id"])
    shop.fire.close()


# ---- metadata from requests ------------------------------------------------------------------------------


def test_jobs_store_the_request_id_and_configured_metadata():
    """The id comes from the request.

    If the request has none, a new id is created. The response contains the id.
    """
    shop = Shop(tenant=lambda: g.get("tenant") if g else None)
    app = shop.web()
    app.before_request(lambda: setattr(g, "tenant", "acme"))

    given = app.test_client().get("/", headers={"X-Request-ID": "abc-1"})
    made = app.test_client().get("/", headers={"X-Request-ID": "a b"})

    assert ({"request_id": "abc-1", "tenant": "acme"}, "abc-1") == (
        given.json["meta"],
        given.headers["x-request-id"],
    )
    assert made.json["id"] == made.headers["x-request-id"] == made.json["meta"]["request_id"]
    assert "a b" != made.json["id"]
    assert request_id.get() is None
    assert {} == dict(shop.greet.enqueue().meta)


# ---- workers and commands --------------------------------------------------------------------------------

WEB = """
    from flask import Flask, current_app
    from firelock import Firelock
    from firelock.integrations.flask import FlaskJobs

    flask_jobs = FlaskJobs(PLACE)
    fire = Firelock("sqlite:///own.db", plugins=[flask_jobs])

    @fire.task
    def greet() -> str:
        return current_app.config["GREETING"]

    @fire.task(executor="process")
    def agreet() -> str:
        return current_app.config["GREETING"]

    def create_app():
        app = Flask("shop")
        app.config.update(GREETING="hello", FIRELOCK_STORAGE="sqlite:///configured.db")
        flask_jobs.init_app(app, fire)
        return app
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a function that writes and imports a Flask project with one module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("FLASK_APP", raising=False)

    def write(name, place):
        (tmp_path / f"{name}.py").write_text(dedent(WEB).replace("PLACE", repr(place)))
        __import__(name)
        return sys.modules[name]

    return write


@pytest.mark.parametrize("is_named", [True, False], ids=["by the plugin", "by FLASK_APP"])
def test_worker_processes_find_the_application(project, monkeypatch, caplog, is_named):
    """A worker process creates the application, but keeps the storage of the server.

    A different storage in the configuration causes a warning.
    """
    name = f"flask_found_{is_named}".lower()
    shop = project(name, f"{name}:create_app" if is_named else None)
    if not is_named:
        monkeypatch.setenv("FLASK_APP", f"{name}:create_app()")

    with shop.fire, shop.fire.server(workers=1, async_workers=1):
        assert "hello" == shop.greet.enqueue().result(timeout=20)

    assert "differs from this server's storage" in caplog.text
    assert "own.db" in shop.fire.storage.url


def test_worker_process_without_an_application_does_not_start(project):
    """The error explains how to configure the application."""
    shop = project("flask_missing", "flask_missing:make")

    with pytest.raises(
        ConfigurationError, match=r"it was not found: .*make.*FlaskJobs\(.shop.web:create_app"
    ):
        shop.fire.server(workers=1).start()
    shop.fire.close()


def test_flask_commands_use_the_configured_storage(project, capfd):
    """All commands of firelock work, including their help. Flask returns their exit codes."""
    shop = project("flask_commands", "flask_commands:create_app")
    runner = shop.create_app().test_cli_runner()
    job = shop.greet.enqueue()

    listed = runner.invoke(args=["firelock", "jobs", "list", "--json"])
    unknown = runner.invoke(args=["firelock", "jobs", "show", "nothing"])
    help_text = runner.invoke(args=["firelock"])

    assert (0, 4, 0) == (listed.exit_code, unknown.exit_code, help_text.exit_code)
    out = capfd.readouterr().out + listed.output + help_text.output
    assert job.id in out
    assert "List, show, requeue" in out
    shop.fire.close()


def test_server_command_refuses_an_app_outside_a_module():
    """The worker processes can find the app only if it is a global variable of a module."""
    shop = Shop()

    ended = shop.web().test_cli_runner().invoke(args=["firelock", "server"])

    assert "is not a global variable of a module" in ended.output
    assert os.environ.get("FLASK_APP") is None
