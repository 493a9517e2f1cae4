"""The package's entry point, which registers the schemes of its URLs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from firelock import hookimpl

if TYPE_CHECKING:
    from firelock.storage import Storage

_SCHEMES = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip


@hookimpl
def register_storages() -> Mapping[str, Callable[[str], Storage]]:
    """Register Redis and Valkey; the driver is loaded when the first storage is opened."""
    return dict.fromkeys(_SCHEMES, _open_redis)


def _open_redis(url: str) -> Storage:
    from firelock_redis.connections.database import RedisDatabase  # noqa: PLC0415 - loads the driver
    from firelock_redis.connections.url import parse_url  # noqa: PLC0415 - with it
    from firelock_redis.storage import RedisStorage  # noqa: PLC0415 - with it

    return RedisStorage(RedisDatabase(parse_url(url)))
