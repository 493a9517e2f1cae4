"""The static files: style, scripts and pictures, under addresses that change when the files do."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Collection, Iterator
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable

import attrs
from starlette.datastructures import Headers
from starlette.responses import Response

from firelock import ConfigurationError

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".ico": "image/x-icon",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
_REQUIRED = ("vendor/htmx.min.js", "vendor/uPlot.iife.min.js", "vendor/uPlot.min.css")
_FOR_EVER = "public, max-age=31536000, immutable"
_VENDOR = "vendor/"
_REMARKS = {".css": re.compile(rb"/\*.*?\*/", re.DOTALL), ".js": re.compile(rb"(?m)^[ \t]*//.*$")}
_BLANKS = re.compile(rb"(?m)^[ \t\n]+")
# RFC 9110, sections 12.4.2 and 12.5.3: a weight is from 0 to 1, of at most three decimals.
_WEIGHED = re.compile(r"(?:x-)?(gzip|\*)\s*(?:;\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?", re.IGNORECASE)


@attrs.define(eq=False)
class Asset:
    """One file, held in memory."""

    name: str
    plain: bytes

    @cached_property
    def digest(self) -> str:
        """The content's hash; eight of its digits are part of the address, sixteen of the ETag."""
        return hashlib.sha256(self.plain).hexdigest()

    @property
    def path(self) -> str:
        """The address below `files/`: the name with the hash before its suffix."""
        stem, _, suffix = self.name.rpartition(".")
        return f"{stem}.{self.digest[:8]}.{suffix}"

    @cached_property
    def packed(self) -> bytes:
        """The content compressed; as it is where that saves nothing."""
        return min(self.plain, gzip.compress(self.plain, 9, mtime=0), key=len)


class Assets:
    """The static files of a folder, by default the package's own; read once, when this is made.

    Only what was found then is ever answered: a request's path is looked up in a table, never joined.

    Raises:
        ConfigurationError: the front-end files of others are not there.
    """

    def __init__(self, folder: Traversable | None = None) -> None:
        folder = folder or files("firelock_dashboard") / "static"
        found = dict(_walk(folder))
        missing = [name for name in _REQUIRED if name not in found]
        if missing:
            raise ConfigurationError(
                f"The dashboard lacks its front-end files {', '.join(missing)}. They are made when "
                "the package is built: install firelock-dashboard again, or run `make setup` in a checkout."
            )
        assets = [
            Asset(name, _bare(name, content)) for name, content in found.items() if _suffix(name) in _TYPES
        ]
        self._by_name = {asset.name: asset for asset in assets}
        self._by_path = {asset.path: asset for asset in assets}

    @property
    def names(self) -> Collection[str]:
        """The names of all files."""
        return self._by_name.keys()

    def url(self, name: str) -> str:
        """Return the file's address relative to where the dashboard is mounted.

        Raises:
            ConfigurationError: no file has that name.
        """
        asset = self._by_name.get(name)
        if asset is None:
            raise ConfigurationError(
                f"No static file {name!r}. There are: {', '.join(sorted(self._by_name))}."
            )
        return f"files/{asset.path}"

    def response(self, path: str, headers: Headers) -> Response:
        """Answer a request for a path below `files/`, compressed where its client takes that."""
        asset = self._by_path.get(path)
        if asset is None:
            # It may be the address of another version, which another server of the same site still answers.
            refused = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
            return Response("There is no such file.", 404, refused, "text/plain")
        content = asset.packed if takes_gzip(headers) else asset.plain
        is_packed = content is not asset.plain
        etag = f'"{asset.digest[:16]}{"-gzip" if is_packed else ""}"'
        answered = {
            "Cache-Control": _FOR_EVER,
            "ETag": etag,
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
        }
        if _matches(headers.getlist("if-none-match"), etag):
            return Response(status_code=304, headers=answered)
        if is_packed:
            answered["Content-Encoding"] = "gzip"
        answered["Content-Type"] = _TYPES[_suffix(asset.name)]
        return Response(content, headers=answered)


def takes_gzip(headers: Headers) -> bool:
    """Tell whether an answer may be compressed; a part of the header that is not well-formed is absent."""
    parts = ",".join(headers.getlist("accept-encoding")).split(",")
    weights = {
        found[1].lower(): float(found[2] or 1)
        for found in map(_WEIGHED.fullmatch, map(str.strip, parts))
        if found
    }
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _matches(values: list[str], etag: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for value in values for tag in value.split(",")}
    return etag in tags or "*" in tags


def _suffix(name: str) -> str:
    return "." + name.rpartition(".")[2]


def _bare(name: str, content: bytes) -> bytes:
    """Return a script or style of ours without lines of remarks, empty lines and indentation.

    They are 2 KB of a first page, compressed. No text in these files goes over a line, which a test sees to.
    """
    remarks = _REMARKS.get(_suffix(name))
    if remarks is None or name.startswith(_VENDOR):
        return content
    return _BLANKS.sub(b"", remarks.sub(b"", content))


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, f"{name}/")
        else:
            yield name, entry.read_bytes()
