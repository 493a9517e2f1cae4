"""An app that the project makes itself, in its own database; the environment says whether it knows that."""

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
