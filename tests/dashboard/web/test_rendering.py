"""The rendering of pages."""

from __future__ import annotations

import subprocess
import sys

from tests.core.fakes import unmeasured

PROGRAM = """
import sys
from firelock import Firelock
from firelock_dashboard import Dashboard
from tests.dashboard.browser import Browser

opened = []

def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".html"):
        opened.append(arguments[0])

fire = Firelock("memory://")
client = Browser(Dashboard(fire))
sys.addaudithook(watch)
print([client.get(path).status for path in ("/", "/queues", "/servers")], opened)
client.close()
fire.close()
"""


def test_templates_are_read_when_the_dashboard_is_created():
    """If the package is upgraded on disk, a running dashboard does not mix templates of two releases."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=unmeasured()
    )

    assert done.stdout.strip() == "[200, 200, 200] []"
