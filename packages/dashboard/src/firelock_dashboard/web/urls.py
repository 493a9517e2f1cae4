"""URLs below the mount; no other module of the dashboard builds URLs."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote, urlencode

import attrs

from firelock_dashboard.web.assets import Assets


@attrs.frozen
class Urls:
    """The URLs of one mount: `urls("/jobs", state="failed")` returns `/admin/jobs/jobs?state=failed`."""

    root: str  # the mount's path as the browser sees it, without a trailing slash
    assets: Assets

    def __call__(self, path: str, **query: object) -> str:
        """Return the URL of a path.

        None and empty strings are left out of the query, and lists repeat the name.
        """
        return self.of(path, query)

    def of(self, path: str, query: Mapping[str, object]) -> str:
        """Return the URL of a path with a query whose names may be any string."""
        pairs = [
            (name, str(value))
            for name, given in query.items()
            for value in (given if isinstance(given, list | tuple) else [given])
            if value is not None and value != ""
        ]
        address = self.root + quote(path, safe="/:@!$&'()*+,;=~")
        return f"{address}?{urlencode(pairs)}" if pairs else address

    def asset(self, name: str) -> str:
        """Return the URL of a static file, which changes with the file's content."""
        return f"{self.root}/{self.assets.url(name)}"

    def back(self, wanted: str | None, default: str = "/") -> str:
        """Return the URL to open after an action.

        The result is the requested URL if it is below the mount, otherwise the default.
        """
        return wanted if wanted and self.is_here(wanted) else self(default)

    def is_here(self, address: str) -> bool:
        """Return whether a browser that follows this URL stays below the mount."""
        if not (address.startswith(f"{self.root}/") and address.isascii() and address.isprintable()):
            return False
        path = unquote(address.partition("?")[0])  # browsers treat %2e%2e like ..
        return not ("\\" in address + path or "//" in path or {".", ".."} & set(path.split("/")))
