"""A Firelock app created by the project, with its jobs in the project's database.

The environment variable OWN_DATABASE passes the alias of this database to the plugin.
"""

from __future__ import annotations

import os

from django.conf import settings

from firelock import Firelock
from firelock.integrations.django import DjangoPlugin

fire = Firelock(
    f"sqlite:///{settings.DATABASES['default']['NAME']}",
    plugins=[DjangoPlugin(database=os.environ.get("OWN_DATABASE"))],
)


@fire.task(name="own.note")
def note(text: str) -> str:
    """Return the text."""
    return text
