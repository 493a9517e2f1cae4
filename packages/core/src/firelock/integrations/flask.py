"""Flask: an application context around each job, request data in jobs, and `flask firelock …`."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import click
from flask.cli import NoAppException, ScriptInfo

from firelock import ConfigurationError, Firelock, hookimpl
from firelock.cli import main
from firelock.integrations.request_meta import HEADER, RequestMeta, request_id, to_request_id
from firelock.server.embedded import locate_app

if TYPE_CHECKING:
    from flask import Flask
    from flask.ctx import AppContext

__all__ = ["FlaskJobs", "request_id"]

log = logging.getLogger(__name__)

_WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class FlaskJobs(RequestMeta):
    """An extension of Flask that is also a plugin of Firelock.

    ::

        flask_jobs = FlaskJobs("shop.web:create_app")
        fire = Firelock("sqlite:///jobs.db", plugins=[flask_jobs])

        def create_app():
            app = Flask(__name__)
            flask_jobs.init_app(app, fire)
            return app

    Each job runs within its own application context, so that `current_app`, a session of Flask-SQLAlchemy and
    functions of `teardown_appcontext` work as in a request. Jobs that a request creates have its id in their
    `meta`: see `RequestMeta`.

    Args:
        application: where worker processes find the application, in the form that `flask --app` accepts. The
            default is `FLASK_APP`, or else `wsgi.py` or `app.py` in the current folder.
        sources: sources of additional metadata, as for `RequestMeta`: `tenant=lambda: g.get("tenant")`.
    """

    def __init__(
        self, application: str | None = None, **sources: ContextVar[Any] | Callable[[], object]
    ) -> None:
        super().__init__(**sources)
        self._place = application
        self._application: Flask | None = None
        self._runs_jobs = False  # whether this process runs jobs, so its storage has already been chosen

    # ---- Flask's interface -------------------------------------------------------------------------------

    def init_app(self, application: Flask, fire: Firelock) -> None:
        """Use `fire` for the application's jobs, and add the command `flask firelock …`.

        The application's configuration can contain `FIRELOCK_STORAGE`, a URL that replaces the app's own
        storage; call this method before any job is created. The configuration can also contain
        `FIRELOCK_REQUEST_ID_HEADER`, which is "X-Request-ID" by default; if it is None, ids are neither read
        nor sent.
        """
        application.config.setdefault("FIRELOCK_REQUEST_ID_HEADER", HEADER)
        application.extensions["firelock"] = fire
        self._application = application
        url = application.config.get("FIRELOCK_STORAGE")
        if url is not None and not self._runs_jobs:
            fire.use_storage(url)
        elif url is not None and url not in {fire.storage.url, fire.storage.connect_url}:
            log.warning(
                "FIRELOCK_STORAGE of the Flask configuration differs from this server's storage, %s. "
                "Start servers with `flask firelock server`, which reads the configuration.",
                fire.storage.url,
            )
        application.wsgi_app = _with_request_id(application, application.wsgi_app)  # type: ignore[method-assign]
        application.cli.add_command(self._command(fire))

    def _command(self, fire: Firelock) -> click.Command:
        @click.command(
            "firelock",
            help="Run and manage jobs: the firelock command line for this application.",
            context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
            add_help_option=False,
        )
        @click.argument("words", nargs=-1, type=click.UNPROCESSED)
        @click.pass_obj
        def command(info: ScriptInfo, words: Sequence[str]) -> None:
            self._be_found_by_children(info)
            spec = locate_app(fire)
            if spec is None:
                raise click.UsageError(
                    "The Firelock app is not a global variable of a module, so worker processes cannot "
                    "import it; assign it to one."
                )
            url = info.load_app().config.get("FIRELOCK_STORAGE")
            before = ["--app", spec, *([] if url is None else ["--storage", url])]
            given = [*before, *words] if words else ["--help"]
            sys.exit(main(given, program=_program(words), has_app=True))

        return command

    def _be_found_by_children(self, info: ScriptInfo) -> None:
        """Set the environment so that a server's processes find the application and its modules."""
        if info.app_import_path is not None:
            os.environ["FLASK_APP"] = info.app_import_path
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if sys.path[0] and sys.path[0] not in paths:
            os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], *filter(None, paths)])

    # ---- hooks of Firelock -------------------------------------------------------------------------------

    @hookimpl
    def worker_process_started(self) -> None:
        """Load the application in every process that runs jobs.

        Raises:
            ConfigurationError: If the application cannot be found.
        """
        if self._application is not None:
            return
        self._runs_jobs = True
        place = self._place or os.environ.get("FLASK_APP")
        try:
            self._application = ScriptInfo(app_import_path=place).load_app()
        except NoAppException as error:
            raise ConfigurationError(
                f"Jobs need a Flask application, but it was not found: {error.format_message()} Pass its "
                'place as for flask --app: FlaskJobs("shop.web:create_app"), or set FLASK_APP.'
            ) from error

    @hookimpl
    def job_context(self) -> AppContext:
        """Return an application context for one job.

        Raises:
            ConfigurationError: If `init_app` was not called, for example in a test with a `Tester`.
        """
        if self._application is None:
            raise ConfigurationError("Jobs need a Flask application; call init_app(app, fire) first.")
        return self._application.app_context()


def _program(words: Sequence[str]) -> str:
    """Return this command's own command line, with the options of Flask that were given."""
    before = sys.argv[1 : len(sys.argv) - len(words)]
    return shlex.join(["flask", *(before if before[-1:] == ["firelock"] else ["firelock"])])


def _with_request_id(application: Flask, inner: _WSGI) -> Any:  # noqa: ANN401 - a method, for Flask
    """Wrap the WSGI application so that each request has an id, which is sent with the response."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        header = application.config["FIRELOCK_REQUEST_ID_HEADER"]
        given = None if header is None else environ.get(f"HTTP_{header.upper().replace('-', '_')}")
        id_ = to_request_id(given)

        def start_with_id(status: str, headers: list[tuple[str, str]], *more: object) -> object:
            if header is not None:
                headers = [*(pair for pair in headers if pair[0].lower() != header.lower()), (header, id_)]
            return start_response(status, headers, *more)

        token = request_id.set(id_)
        try:
            return inner(environ, start_with_id)
        finally:
            request_id.reset(token)

    return answer
