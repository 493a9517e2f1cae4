"""Addresses below the mount, built for each request: nothing else in the dashboard writes one."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote, urlencode

import attrs

from firelock_dashboard.web.assets import Assets


@attrs.frozen
class Urls:
    """Absolute paths of one mount: `urls("/jobs", state="failed")` is `/admin/jobs/jobs?state=failed`."""

    root: str  # where the dashboard is mounted, as the browser sees it; no slash at its end
    assets: Assets

    def __call__(self, path: str, **query: object) -> str:
        """Return the address of a path; None and empty texts are left out of the query, lists repeat."""
        return self.of(path, query)

    def of(self, path: str, query: Mapping[str, object]) -> str:
        """Return the address of a path with a query whose names may be any text."""
        pairs = [
            (name, str(value))
            for name, given in query.items()
            for value in (given if isinstance(given, list | tuple) else [given])
            if value is not None and value != ""
        ]
        address = self.root + quote(path, safe="/:@!$&'()*+,;=~")
        return f"{address}?{urlencode(pairs)}" if pairs else address

    def asset(self, name: str) -> str:
        """Return the address of a file that comes with the dashboard; it changes with the content."""
        return f"{self.root}/{self.assets.url(name)}"

    def back(self, wanted: str | None, default: str = "/") -> str:
        """Return where to go after an action: the wanted place if it lies here, else the default."""
        return wanted if wanted and self.is_here(wanted) else self(default)

    def is_here(self, address: str) -> bool:
        """Tell whether a browser that follows this address stays below the mount."""
        if not (address.startswith(f"{self.root}/") and address.isascii() and address.isprintable()):
            return False
        path = unquote(address.partition("?")[0])  # for browsers %2e%2e is .. as well
        return not ("\\" in address + path or "//" in path or {".", ".."} & set(path.split("/")))
