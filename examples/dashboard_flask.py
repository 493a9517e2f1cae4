"""A shop on Flask with its dashboard at /jobs, for users who are logged in with Flask-Login.

FIRELOCK_STORAGE=sqlite:///shop.db flask --app examples.dashboard_flask run
"""

from __future__ import annotations

import os

from flask import Flask, redirect
from flask_login import LoginManager, UserMixin, login_user
from werkzeug.wrappers import Response

from firelock import Firelock
from firelock_dashboard import Dashboard, flask_login

fire = Firelock(os.environ.get("FIRELOCK_STORAGE", "sqlite:///shop.db"))
app = Flask(__name__)
app.secret_key = os.environ.get("SECRET_KEY", "only for this example")
logins = LoginManager(app)


class Operator(UserMixin):
    """A user who may operate the shop's jobs."""

    def __init__(self, name: str) -> None:
        self.id = name


@logins.user_loader
def load(name: str) -> Operator:
    """Return the logged-in user."""
    return Operator(name)


@app.post("/login/<name>")
def log_in(name: str) -> Response:
    """Log in a user; your own application must check a password here."""
    login_user(Operator(name))
    return redirect("/jobs/")


@fire.task(queue="mail")
def send_receipt(order_id: int) -> str:
    """Send the receipt of an order to its buyer."""
    return f"receipt of order {order_id} sent"


@app.post("/orders/<int:order_id>")
def buy(order_id: int) -> dict[str, str]:
    """Accept the order immediately, and send its receipt as a job."""
    return {"job": send_receipt.enqueue(order_id).id}


Dashboard(fire, auth=flask_login(level="operate")).init_app(app, "/jobs")
