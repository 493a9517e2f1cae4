"""URLs of storages, as they may be shown."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from firelock.errors import StorageError

__all__ = ["shown_url"]


def shown_url(url: str) -> str:
    """Return a URL without its password, for `Storage.url`, messages and logs.

    Raises:
        StorageError: it cannot be read, and so not be shown: a password may stand anywhere in it.
    """
    try:
        parts = urlsplit(url)
        secret = parts.password
    except ValueError as error:
        message = "The storage URL cannot be read; a bracket or port in it is wrong."
        raise StorageError(message) from error
    if secret is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))
