"""Flask: the application context of jobs, the metadata of a request's jobs, and `flask firelock`."""

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


def test_each_job_has_a_context_of_its_own(shop):
    """Jobs of `def` and `async def` tasks have one, and its teardown receives the job's error."""
    shop.web()
    with Tester(shop.fire) as tester:
        jobs = [shop.greet.enqueue(), shop.greet.enqueue(), shop.agreet.enqueue()]
        tester.drain(raises=True)
        assert ["shop"] * 3 == [job.result() for job in jobs]

        shop.fail.enqueue()
        tester.drain()

    assert ["NoneType", "NoneType", "NoneType", "ValueError"] == shop.torn_down
    assert not current_app


def test_jobs_of_a_server_in_the_application_s_process_have_it_too(shop):
    """Jobs in threads and on the event loop have the context."""
    shop.web()
    with shop.fire, shop.fire.server(workers=2, async_workers=2):
        jobs = [shop.greet.enqueue(), shop.agreet.enqueue()]
        assert ["shop", "shop"] == [job.result(timeout=20) for job in jobs]


def test_a_job_without_an_application_says_what_to_do(shop):
    """A test that did not create an application gets this error."""
    with Tester(shop.fire) as tester:
        shop.greet.enqueue()
        with pytest.raises(ConfigurationError, match=r"call init_app\(app, fire\) first"):
            tester.drain(raises=True)


def test_the_configuration_names_the_storage(tmp_path):
    """The configuration replaces the storage in the code, in processes that create jobs.

    It can also turn off the header of the request id.
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


# ---- the metadata of a request's jobs --------------------------------------------------------------------


def test_jobs_carry_the_request_s_id_and_what_else_is_asked_for():
    """The id is that of the request or a new one. The response contains it."""
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
def test_workers_find_the_application(project, monkeypatch, caplog, is_named):
    """A process that runs jobs creates the application, but keeps the storage of the server.

    A different storage in the configuration causes a warning.
    """
    name = f"flask_found_{is_named}".lower()
    shop = project(name, f"{name}:create_app" if is_named else None)
    if not is_named:
        monkeypatch.setenv("FLASK_APP", f"{name}:create_app()")

    with shop.fire, shop.fire.server(workers=1, async_workers=1):
        assert "hello" == shop.greet.enqueue().result(timeout=20)

    assert "is another storage than this server's" in caplog.text
    assert "own.db" in shop.fire.storage.url


def test_a_worker_that_finds_none_does_not_start(project):
    """The error explains how to name the application."""
    shop = project("flask_missing", "flask_missing:make")

    with pytest.raises(ConfigurationError, match=r"none is found: .*make.*FlaskJobs\(.shop.web:create_app"):
        shop.fire.server(workers=1).start()
    shop.fire.close()


def test_the_command_line_works_on_the_configured_storage(project, capfd):
    """Every command of firelock works, including its help. The exit code is passed on."""
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


def test_an_app_that_stands_in_no_module_is_told():
    """The processes of a server could not find an app that is not a global variable of a module."""
    shop = Shop()

    ended = shop.web().test_cli_runner().invoke(args=["firelock", "server"])

    assert "is no module's global variable" in ended.output
    assert os.environ.get("FLASK_APP") is None
