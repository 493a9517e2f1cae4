"""`Dashboard(fire).init_app(app, "/jobs")`: the dashboard as a blueprint of a Flask application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from firelock_dashboard.wsgi import ACCESS, access_in

if TYPE_CHECKING:
    from flask import Flask

    from firelock_dashboard.dashboard import Dashboard

__all__ = ["mount"]


def mount(dashboard: Dashboard, app: Flask, prefix: str) -> None:
    """The application answers below the prefix with the dashboard; its own checks come first.

    `auth=` is asked within Flask's request: `flask_login.current_user` and `flask.session` are at hand.
    """
    from flask import Blueprint, Response, request  # noqa: PLC0415 - who mounts this has it

    name = f"firelock_{prefix.strip('/').replace('/', '_').replace('.', '_') or 'root'}"
    blueprint = Blueprint(name, __name__, url_prefix=prefix)

    def answer(path: str = "") -> Any:  # noqa: ANN401, ARG001 - a response of Flask's; the path is in the environ
        environ = dict(request.environ)
        script = f"{environ.get('SCRIPT_NAME', '')}{prefix}"
        environ["PATH_INFO"] = environ.get("PATH_INFO", "").removeprefix(prefix)
        environ["SCRIPT_NAME"] = script
        environ["wsgi.input"] = request.stream
        if dashboard.auth is not None:
            access = access_in(environ, dashboard.auth)
            if access is not None:
                environ[ACCESS] = access
        return Response.from_app(dashboard.wsgi, environ, buffered=True)

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]  # the dashboard says no itself
    options: dict[str, Any] = {"methods": methods, "provide_automatic_options": False}
    blueprint.add_url_rule("/", "root", answer, **options)
    blueprint.add_url_rule("/<path:path>", "page", answer, **options)
    app.register_blueprint(blueprint)
    protection = app.extensions.get("csrf")  # Flask-WTF's token; the dashboard has evidence of its own
    if protection is not None:
        protection.exempt(blueprint)
