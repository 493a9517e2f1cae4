"""Django's connections in jobs: what the database has cut off costs no later job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

# The program that runs jobs: one of each kind, after the database has ended every connection of Django's.
APP = f"""
import json, os, sys
import psycopg
sys.path.insert(0, {str(EXAMPLES)!r})

from django.conf import settings

database = json.loads(os.environ["DATABASE"])
settings.configure(DATABASES={{"default": database}})

from asgiref.sync import sync_to_async
from django.db import connection
from django_connections import DjangoJobs
from firelock import Firelock, JobFailed, Retry

fire = Firelock("memory://", plugins=[DjangoJobs] if os.environ["WITH_PLUGIN"] == "1" else [])

def backend():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]

@fire.task(name="thread", retry=Retry.never())
def thread() -> int:
    return backend()

@fire.task(name="coroutine", retry=Retry.never())
async def coroutine() -> int:
    return await sync_to_async(backend)()

@fire.task(name="process", executor="process", retry=Retry.never())
def process() -> int:
    return backend()

def main():
    task = {{"thread": thread, "coroutine": coroutine, "process": process}}[sys.argv[1]]
    ends, pids = [], []
    with fire.server(workers=1, async_workers=1):
        for _ in range(3):
            try:
                pids.append(task.enqueue().result(timeout=60))
                ends.append("succeeded")
            except JobFailed:
                ends.append("failed")
            with psycopg.connect(os.environ["ADMIN"], autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(pid, 10000) FROM unnest(%s::int[]) AS pid", [pids])
    print(json.dumps(ends))

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def ends_of(tmp_path, postgresql):
    """Returns how three jobs of a kind end between which the database has ended all connections."""
    (tmp_path / "django_app.py").write_text(APP)
    (tmp_path / "main.py").write_text(
        "import django_app\nif __name__ == '__main__':\n    django_app.main()\n"
    )
    user, password, host, port = _parts(postgresql.engine_url())
    database = {
        "ENGINE": "django.db.backends.postgresql", "NAME": postgresql.name, "USER": user,
        "PASSWORD": password, "HOST": host, "PORT": port,
    }  # fmt: skip

    def run(kind, *, with_plugin=True, **options):
        said = subprocess.run(
            [sys.executable, "main.py", kind],
            cwd=tmp_path,
            env={
                **os.environ, "DATABASE": json.dumps({**database, **options}),
                "ADMIN": postgresql.direct_url().replace("postgresql+psycopg", "postgresql"),
                "WITH_PLUGIN": str(int(with_plugin)),
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )  # fmt: skip
        assert 0 == said.returncode, said.stderr
        return json.loads(said.stdout)

    return run


def _parts(url):
    from sqlalchemy.engine import make_url

    parts = make_url(url)
    return parts.username, parts.password, parts.host, parts.port


KEPT = {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}


@pytest.mark.parametrize("options", [{}, KEPT], ids=["closed", "kept"])
@pytest.mark.parametrize("kind", ["thread", "coroutine", "process"])
def test_jobs_go_on_after_the_database_has_dropped_every_connection(ends_of, kind, options):
    """Wherever the task runs, and whether Django keeps its connections or not."""
    assert ["succeeded"] * 3 == ends_of(kind, **options)


@pytest.mark.parametrize("kind", ["thread", "coroutine", "process"])
def test_without_the_plugin_they_would_not(ends_of, kind):
    """The connections of these tests are really cut off, and nothing but the plugin mends them."""
    assert ["succeeded", "failed", "failed"] == ends_of(kind, with_plugin=False)
