"""The kinds of storages on which every dashboard page is tested: SQLite, Redis and a third-party storage."""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tests.redis.programs import programs
from tests.redis.servers import RedisServer

_THIRD_PARTY = Path(__file__).parents[1] / "third_party" / "firelock-files" / "src"


@attrs.frozen
class Kind:
    """A kind of storage; `opened` yields the argument for `Firelock` and removes the storage afterwards."""

    name: str
    opened: object


@contextmanager
def _sqlite(folder):
    yield f"sqlite:///{folder / 'any.db'}"


@contextmanager
def _redis(folder):
    with RedisServer(programs()[0]) as server:
        yield server.socket_url()


@contextmanager
def _files(folder):
    """Import the third-party package from its source folder."""
    sys.path.insert(0, str(_THIRD_PARTY))
    try:
        storage = importlib.import_module("firelock_files.storage")
    finally:
        sys.path.remove(str(_THIRD_PARTY))
    yield storage.FileStorage(f"files://{folder / 'any'}?sync=off")


_NO_REDIS = pytest.mark.skipif(not programs(), reason="no Redis here: install redis-server")

STORAGES = [
    pytest.param(Kind("sqlite", _sqlite), id="sqlite"),
    pytest.param(Kind("redis", _redis), id="redis", marks=_NO_REDIS),
    pytest.param(Kind("files", _files), id="third-party"),
]
