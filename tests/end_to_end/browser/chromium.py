"""The Chromium installed on this machine; it is never downloaded."""

from __future__ import annotations

import os
import shutil

from tests.processes import refuse_to_light_tests

_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

MISSING = "no Chromium here: install chromium, or name one in FIRELOCK_TEST_CHROMIUM"


def chromium_path():
    """Return the path of Chromium, or None if there is none."""
    return os.environ.get("FIRELOCK_TEST_CHROMIUM") or shutil.which("chromium")


def launch(playwright):
    """Return a browser."""
    refuse_to_light_tests("Chromium")
    return playwright.chromium.launch(executable_path=chromium_path(), args=list(_ARGUMENTS))
