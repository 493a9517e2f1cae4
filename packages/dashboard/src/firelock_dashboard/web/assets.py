"""The static files: styles, scripts and pictures, under URLs that change with the files' content."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
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
_PACKED_ALREADY = {".png", ".woff2"}
_REQUIRED = ("vendor/htmx.min.js", "vendor/uPlot.iife.min.js", "vendor/uPlot.min.css")
_FOR_EVER = "public, max-age=31536000, immutable"
_VENDOR = "vendor/"
_REMARKS = {".css": re.compile(rb"/\*.*?\*/", re.DOTALL), ".js": re.compile(rb"(?m)^[ \t]*//.*$")}
_BLANKS = re.compile(rb"(?m)^[ \t\n]+")
# RFC 9110, section 12.4.2: from 0 to 1, with at most three decimals
_WEIGHT = re.compile(r"q=(0(\.\d{0,3})?|1(\.0{0,3})?)", re.IGNORECASE)


@attrs.define(eq=False)
class Asset:
    """One file, held in memory, with a compressed form that is created at first use."""

    name: str
    plain: bytes

    @cached_property
    def digest(self) -> str:
        """The hash of the content.

        Its first eight digits are part of the URL, the first sixteen of the ETag.
        """
        return hashlib.sha256(self.plain).hexdigest()

    @property
    def path(self) -> str:
        """The path below `files/`: the name with the hash before its suffix."""
        stem, _, suffix = self.name.rpartition(".")
        return f"{stem}.{self.digest[:8]}.{suffix}"

    @property
    def suffix(self) -> str:
        """The end of the name, including the dot."""
        return _suffix(self.name)

    @cached_property
    def forms(self) -> Mapping[str, bytes]:
        """The content by content coding.

        The compressed form comes first, if it is smaller; `identity` is last.
        """
        forms = {"identity": self.plain}
        if self.suffix not in _PACKED_ALREADY:
            packed = gzip.compress(self.plain, 9, mtime=0)
            if len(packed) < len(self.plain):
                forms = {"gzip": packed, **forms}
        return forms


class Assets:
    """The static files of a folder, by default the package's own; read once, when this object is created.

    No other files can be served, because the path of a request is looked up in a table and never joined to a
    folder.

    Raises:
        ConfigurationError: If third-party front-end files are missing.
    """

    def __init__(self, folder: Traversable | None = None) -> None:
        folder = folder or files("firelock_dashboard") / "static"
        found = dict(_walk(folder))
        missing = [name for name in _REQUIRED if name not in found]
        if missing:
            raise ConfigurationError(
                f"The front-end files {', '.join(missing)} of the dashboard are missing; install "
                "firelock-dashboard again, or run `make setup` in a checkout to build them."
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
        """Return the file's URL relative to the dashboard's mount.

        Raises:
            ConfigurationError: If no file has this name.
        """
        asset = self._by_name.get(name)
        if asset is None:
            raise ConfigurationError(
                f"No static file is named {name!r}; use one of {', '.join(sorted(self._by_name))}."
            )
        return f"files/{asset.path}"

    def response(self, path: str, headers: Headers) -> Response:
        """Return the file at a path below `files/`, in the content coding that the client prefers."""
        asset = self._by_path.get(path)
        if asset is None:
            # not cached, because another server of the same site may run another version that has this file
            refused = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
            return Response("File not found.", 404, refused, "text/plain")
        forms = asset.forms
        coding = preferred_encoding(",".join(headers.getlist("accept-encoding")), list(forms))
        etag = f'"{asset.digest[:16]}-{coding}"'
        answered = {
            "Cache-Control": _FOR_EVER,
            "ETag": etag,
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
        }
        if _matches(headers.getlist("if-none-match"), etag):
            return Response(status_code=304, headers=answered)
        if coding != "identity":
            answered["Content-Encoding"] = coding
        answered["Content-Type"] = _TYPES[asset.suffix]
        return Response(forms[coding], headers=answered)


def preferred_encoding(accepted: str, offered: list[str]) -> str:
    """Return the offered content coding that an Accept-Encoding header prefers; the first of equal codings.

    `identity` is the result if no other coding is accepted, even if the client refuses it, because any file
    is better than none. A malformed part of the header is ignored. Source: RFC 9110, section 12.5.3.
    """
    weights = dict(_weights(accepted))
    # codings that the header does not name are refused, except identity, which is the last choice
    unnamed = weights.get("*", 0.0)
    liked = {coding: weights.get(coding, unnamed) for coding in offered if coding != "identity"}
    liked["identity"] = weights.get("identity", unnamed or 0.0001)
    best = max(liked, key=lambda coding: liked[coding])
    return best if liked[best] > 0 else "identity"


def _weights(accepted: str) -> Iterator[tuple[str, float]]:
    for part in accepted.lower().split(","):
        coding, *parameters = (word.strip() for word in part.split(";"))
        matches = [_WEIGHT.fullmatch(parameter) for parameter in parameters]
        if not coding or len(matches) > 1:
            continue
        weight = 1.0
        if matches:
            if matches[0] is None:
                continue
            weight = float(matches[0][1])
        yield coding.removeprefix("x-") if coding == "x-gzip" else coding, weight


def _matches(values: list[str], etag: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for value in values for tag in value.split(",")}
    return etag in tags or "*" in tags


def _suffix(name: str) -> str:
    return "." + name.rpartition(".")[2]


def _bare(name: str, content: bytes) -> bytes:
    """Return a script or style of this package without comment lines, empty lines and indentation.

    This reduces the compressed size of a first page by 2 KB. No string in these files may span lines; a test
    checks this.
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
