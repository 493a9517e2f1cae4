"""Each kind of storage that a dashboard is walked over: SQLite, Redis, and one of a third party."""

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
    """A kind of storage: `opened` gives what `Firelock` takes, and it is gone afterwards."""

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
    """The stranger's package is imported from where it lies."""
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
