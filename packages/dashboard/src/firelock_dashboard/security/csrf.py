"""The gate in front of all views: the permitted forms and origins of requests, and the response headers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from firelock import ConfigurationError
from firelock_dashboard.problems import BadRequest, Forbidden, NotLocal, RequestProblem

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.requests import Request
    from starlette.responses import Response

METHODS = ("GET", "HEAD", "POST")

PROTECTION = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
}

# With no-referrer, browsers send the Origin null with a form, and such a request is refused.
_ORIGIN_ALONE = "strict-origin"

# A proxy adds one of these headers to a request; then the peer is the proxy, not the visitor.
_PASSED_ON = frozenset({
    "forwarded", "via", "cdn-loop", "client-ip", "proxy-client-ip", "wl-proxy-client-ip", "true-client-ip",
    "x-client-ip", "x-cluster-client-ip", "x-remote-ip", "x-remote-addr", "x-originating-ip",
    "x-proxyuser-ip", "x-host", "x-scheme", "x-request-start", "x-sendfile-type", "front-end-https",
    "do-connecting-ip", "ssl-client-cert", "x-http-host-override",
})  # fmt: skip
_PASSED_ON_AS = (
    "x-forward", "x-real-", "x-original-", "x-envoy-", "x-arr-", "x-azure-", "x-appengine-", "x-amzn-",
    "x-vercel-", "x-nf-", "cf-", "fastly-", "fly-", "tailscale-",
)  # fmt: skip

_LOCAL_HOST = re.compile(
    r"(?:(?P<name>localhost|\[::1\])|(?P<ipv4>127(?:\.[0-9]{1,3}){3}))(?::[0-9]{1,5})?", re.IGNORECASE
)
_PORTS = {"http": 80, "https": 443}
_HIDDEN_SLASHES = re.compile(rb"%2f|%5c|%00|\\", re.IGNORECASE)
_SEGMENT = re.compile(r"[^/\\?#<>\"'\x00-\x20\x7f-\x9f]+")
_SAFE = "/~!$&()*+,:@="
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")


class Gate:
    """The check that refuses requests before they reach a view.

    Args:
        is_open: whether there is an `auth=`, so that visitors of other machines can have access.
        trusts_proxy: whether to trust `X-Forwarded-Host` and `-Proto`.
        origins: further origins that may send forms.
        hosts: the host names that the dashboard answers to; None for all.
        prefix: the path under which a browser finds the dashboard; None if the framework or a proxy supplies
            it.

    Raises:
        ConfigurationError: an origin, a host or the prefix is invalid.
    """

    def __init__(
        self,
        *,
        is_open: bool,
        trusts_proxy: bool,
        origins: Sequence[str],
        hosts: Sequence[str] | None = None,
        prefix: str | None = None,
    ) -> None:
        if prefix is not None and _checked_root(prefix) is None:
            raise ConfigurationError(
                f"prefix={prefix!r} is no path; write /jobs, and nothing or / for the root."
            )
        self._prefix = prefix
        self._is_open = is_open
        self._trusts_proxy = trusts_proxy
        self._origins = frozenset(map(_checked_origin, _listed("trusted_origins", origins)))
        self._hosts = (
            None if hosts is None else [_checked_host(host) for host in _listed("allowed_hosts", hosts)]
        )

    # ---- the form of a request ---------------------------------------------------------------------------

    def check_shape(self, request: Request) -> None:
        """Check that the request can be interpreted in only one way.

        Raises:
            RequestProblem: the method is not GET, HEAD or POST; there are two hosts; or the path changes when
                it is parsed again.
        """
        if request.method not in METHODS:
            raise RequestProblem(
                f"{request.method[:40]!a} is not answered here; {', '.join(METHODS)} are.",
                status=405,
                headers={"Allow": ", ".join(METHODS)},
            )
        if len(request.headers.getlist("host")) > 1:
            raise BadRequest("The request has two Host headers; send one.")
        _check_path(request.scope["path"], request.scope.get("raw_path") or b"")

    # ---- the origin of a request -------------------------------------------------------------------------

    def check_visitor(self, request: Request) -> None:
        """Check that the request comes from this machine, or that `auth=` will identify its sender.

        Raises:
            NotLocal: the request might come from another machine, and there is no `auth=`.
            Forbidden: the request's host is not in `allowed_hosts=`.
        """
        if not self._is_open:
            reason = _why_not_local(request)
            if reason is not None:
                raise NotLocal(reason)
        elif self._hosts is not None:
            host = self._forwarded(request.headers, "host") or request.headers.get("host", "")
            if not any(_is_host(host.lower(), allowed) for allowed in self._hosts):
                raise Forbidden(
                    f"This dashboard does not answer to the host {host[:100]!r}; see allowed_hosts=."
                )

    def check_origin(self, request: Request) -> bool:
        """Return whether the request is proven to come from one of the dashboard's own pages.

        Raises:
            Forbidden: the request is proven to come from elsewhere, and it would change something or is not a
                followed link.
        """
        origins, sites = request.headers.getlist("origin"), request.headers.getlist("sec-fetch-site")
        own = self.origin(request)
        if len(origins) > 1 or len(sites) > 1 or origins == ["null"]:
            raise Forbidden(
                "The request does not say which page it comes from (its Origin is null or given twice). "
                "Referrer-Policy: no-referrer, set by a proxy or another page, causes this; set same-origin."
            )
        origin = _origin(origins[0]) or origins[0] if origins else None
        if origin in self._origins:
            return True
        if sites:
            if sites == ["same-origin"]:
                if origin is not None and _place(origin) != _place(own):
                    raise _foreign(origin, own)
                return True
            if request.method != "POST" and origin is None and _is_answered_elsewhere(sites, request.headers):
                return False
            raise Forbidden(
                f"The request comes from another site (Sec-Fetch-Site: {sites[0][:20]}); open the dashboard "
                "itself, or name the origin in trusted_origins=."
            )
        if origin is not None and origin != own:
            raise _foreign(origin, own)
        return origin is not None

    def origin(self, request: Request) -> str:
        """Return the dashboard's own origin as the browser sees it."""
        host = self._forwarded(request.headers, "host") or request.headers.get("host", "")
        address = f"{self.scheme(request)}://{host}"
        return _origin(address) or address

    def scheme(self, request: Request) -> str:
        """Return http or https, as the browser sees it."""
        return (self._forwarded(request.headers, "proto") or str(request.scope.get("scheme", "http"))).lower()

    def port(self, request: Request) -> int:
        """Return the port to which the browser sends requests."""
        return urlsplit(self.origin(request)).port or _PORTS.get(self.scheme(request), 0)

    def root(self, request: Request) -> str:
        """Return the mount's path as the browser sees it, without a trailing slash.

        Raises:
            BadRequest: the path is invalid, and a redirect to it could lead to another site.
        """
        given = self._prefix
        if given is None:
            prefix = self._forwarded(request.headers, "prefix")
            given = f"{prefix.rstrip('/')}{request.scope.get('root_path', '')}"
        root = _checked_root(given)
        if root is None:
            raise BadRequest(
                f"The dashboard cannot be mounted at {given[:100]!r}; see prefix= and X-Forwarded-Prefix."
            )
        return root

    def _forwarded(self, headers: Headers, what: str) -> str:
        if not self._trusts_proxy:
            return ""
        return headers.get(f"x-forwarded-{what}", "").partition(",")[0].strip()

    # ---- response headers --------------------------------------------------------------------------------

    @staticmethod
    def protect(response: Response, *, hides_path: bool = False) -> None:
        """Add the headers that make a page with hostile data harmless.

        A page's own policy remains in addition to the dashboard's, because a browser applies both.

        Args:
            response: the response to a request.
            hides_path: whether the request's path contains a secret, so that no other request may send it in
                a Referer.
        """
        for name, value in PROTECTION.items():
            if name == "Content-Security-Policy":
                if value not in response.headers.getlist(name):
                    response.headers.append(name, value)
            else:
                response.headers[name] = value
        if hides_path:
            response.headers["Referrer-Policy"] = _ORIGIN_ALONE
        response.headers.setdefault("Cache-Control", "no-store")


def _check_path(path: str, raw: bytes) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise BadRequest("The path is no UTF-8; encode it.") from error
    if _CONTROL.search(path) or _HIDDEN_SLASHES.search(raw.partition(b"?")[0]):
        raise BadRequest("The path holds a backslash, an encoded slash or a control character; leave it out.")
    segments = path.split("/")
    if not path.startswith("/") or "" in segments[1:-1] or not {".", ".."}.isdisjoint(segments):
        raise BadRequest("The path holds // or dots instead of names; write it out.")


def _why_not_local(request: Request) -> str | None:
    """Return the reason why a request might come from another machine, or None if it cannot."""
    client = request.client
    if client is None:  # a Unix socket, mostly a proxy's: it would make every visitor local
        return "its sender's address is not known"
    if not _is_loopback(client.host):
        return f"it comes from {client.host[:60]}"
    passed_on = next((name for name in request.headers if _is_proxy_header(name)), None)
    if passed_on is not None:
        return f"it has passed a proxy, as its header {passed_on[:60]} says"
    if request.scope.get("http_version") == "1.0":  # browsers do not use it, but proxies do by default
        return "it is in HTTP/1.0, as from a proxy"
    host = request.headers.get("host")
    if host is None:
        return "it names no Host"
    return None if _is_local_host(host) else f"it asks for the host {host[:100]}"


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_proxy_header(name: str) -> bool:
    name = name.lower().replace("_", "-")
    return name in _PASSED_ON or name.startswith(_PASSED_ON_AS)


def _is_local_host(host: str) -> bool:
    match = _LOCAL_HOST.fullmatch(host)
    return match is not None and (match["ipv4"] is None or _is_loopback(match["ipv4"]))


def _is_answered_elsewhere(sites: list[str], headers: Headers) -> bool:
    """Return whether a GET that does not come from the dashboard's own pages may be answered.

    Only a user can cause `none` (a typed URL, a bookmark). Any other site may open the dashboard in its own
    tab, which is a navigation to a document, but may not load it in a frame or with fetch. Browsers send the
    three headers together (Fetch Metadata Request Headers, W3C), so a missing header is not treated as an
    exception.
    """
    modes, destinations = headers.getlist("sec-fetch-mode"), headers.getlist("sec-fetch-dest")
    if sites == ["none"]:
        return modes in ([], ["navigate"])
    return modes == ["navigate"] and destinations == ["document"]


def _origin(text: str) -> str | None:
    """Return scheme://host[:port] in a normal form for comparison, or None if it is not an origin."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        return None
    if parts.path or parts.query or parts.fragment or not text.isprintable() or "\\" in text:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port in {None, _PORTS[parts.scheme]} else f":{port}")


def _place(origin: str) -> str:
    """Return the host with its port.

    Only the browser can compare the scheme, because TLS may end at a proxy.
    """
    return origin.partition("://")[2]


def _foreign(origin: str, own: str) -> Forbidden:
    return Forbidden(
        f"The request comes from {origin[:100]!r}, and this dashboard is at {own[:100]!r}. Behind a proxy "
        "that sets X-Forwarded-Proto and -Host give trusts_proxy=True; else name the origin in "
        "trusted_origins=, or let the proxy pass Host on as it is."
    )


def _listed(option: str, values: Sequence[str]) -> Sequence[str]:
    if isinstance(values, str):
        raise ConfigurationError(f"{option}={values!r} is one text; write a list: [{values!r}].")
    return values


def _checked_origin(text: str) -> str:
    origin = _origin(text.rstrip("/"))
    if origin is None:
        raise ConfigurationError(
            f"trusted_origins= holds {text!r}; write an origin such as 'https://ops.example.com'."
        )
    return origin


def _checked_host(text: str) -> str:
    host = text.lower()
    name = host.removeprefix("*.")
    if _origin(f"https://{name}") is None or "*" in name:
        raise ConfigurationError(
            f"allowed_hosts= holds {text!r}; write jobs.example.com, jobs.example.com:8000 or *.example.com."
        )
    return host


def _is_host(host: str, allowed: str) -> bool:
    bare = re.sub(r":[0-9]{1,5}\Z", "", host)
    if allowed.startswith("*."):
        return bare.endswith(allowed[1:])
    return allowed in {host, bare}


def _checked_root(text: str) -> str | None:
    """Return the root percent-encoded, or None if it is not a path of plain segments."""
    text = text.rstrip("/")
    if not text:
        return ""
    first, *segments = text.split("/")
    if first or not all(_SEGMENT.fullmatch(each) and each not in {".", ".."} for each in segments):
        return None
    try:
        return quote(text, safe=_SAFE)
    except UnicodeEncodeError:
        return None
