"""What holds for every test: generated examples repeat, and the caller's settings do not leak in."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("firelock", derandomize=True, deadline=None, database=None, print_blob=True)
settings.load_profile("firelock")

# FIRELOCK_TEST_… names servers to test against; every other one would change what the code under test does.
for name in [name for name in os.environ if name.startswith("FIRELOCK_")]:
    if not name.startswith("FIRELOCK_TEST_"):
        del os.environ[name]
