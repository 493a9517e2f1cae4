"""A Django project in a process of its own, since a process has one project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import attrs

FOLDER = Path(__file__).parent / "django_project"


@attrs.frozen
class DjangoProject:
    """Runs the commands of the project in `django_project`, with these databases and this block."""

    databases: dict
    block: object
    python: str = sys.executable
    environment: dict = attrs.Factory(dict)

    def __call__(self, *words, code=0, **environment):
        """`manage.py` has run the words and has ended so; return what it wrote, errors last."""
        return self.run([str(FOLDER / "manage.py"), *words], code=code, **environment)

    def firelock(self, *words, code=0, **environment):
        """`firelock` itself has run the words, with the project's settings in the environment."""
        set_up = {"DJANGO_SETTINGS_MODULE": "mysite.settings", **environment}
        return self.run(["-m", "firelock", *words], code=code, **set_up)

    def shell(self, program, **environment):
        """The program has run with Django set up; return what it printed, read as JSON."""
        start = "import django; django.setup()\n"
        set_up = {"DJANGO_SETTINGS_MODULE": "mysite.settings", **environment}
        return json.loads(self.run(["-c", start + program], **set_up))

    def run(self, words, code=0, **environment):
        done = subprocess.run(
            [self.python, *words], cwd=FOLDER, env=self.all_environment(environment), capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert code == done.returncode, done.stdout + done.stderr
        return done.stdout + done.stderr

    def all_environment(self, more):
        return {
            **os.environ,
            "SHOP_DATABASES": json.dumps(self.databases),
            "SHOP_FIRELOCK": json.dumps(self.block),
            **self.environment,
            **more,
        }


def sqlite_database(path):
    """An entry of DATABASES."""
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}
