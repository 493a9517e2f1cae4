"""The checks of a request's form and origin before any view runs, and the security headers of responses."""

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

# With no-referrer, browsers send forms with `Origin: null`, and the dashboard refuses such requests.
_ORIGIN_ALONE = "strict-origin"

# A proxy adds at least one of these headers to a request. The peer of such a request is not the visitor.
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
        is_open: whether there is an `auth=`, so that visitors from other machines can have access.
        trusts_proxy: whether to trust `X-Forwarded-Host` and `-Proto`.
        origins: additional origins that may send forms.
        hosts: the host names that the dashboard accepts in requests; None for all.
        prefix: the path under which a browser finds the dashboard; None if the framework or a proxy supplies
            it.

    Raises:
        ConfigurationError: If an origin, a host or the prefix is invalid.
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
                f"prefix= must be a path, got {prefix!r}; use for example '/jobs', or '/' for the root."
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
            RequestProblem: If the method is not GET, HEAD or POST, if there are two Host headers, or if
                another parser could read the path differently.
        """
        if request.method not in METHODS:
            raise RequestProblem(
                f"The method must be one of {', '.join(METHODS)}, got {request.method[:40]!a}.",
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
            NotLocal: If the request might come from another machine, and there is no `auth=`.
            Forbidden: If the request's host is not in `allowed_hosts=`.
        """
        if not self._is_open:
            reason = _why_not_local(request)
            if reason is not None:
                raise NotLocal(reason)
        elif self._hosts is not None:
            host = self._forwarded(request.headers, "host") or request.headers.get("host", "")
            if not any(_is_host(host.lower(), allowed) for allowed in self._hosts):
                raise Forbidden(
                    f"This dashboard does not accept requests for the host {host[:100]!r}; add it to "
                    "allowed_hosts=."
                )

    def check_origin(self, request: Request) -> bool:
        """Return whether the request is proven to come from one of the dashboard's own pages.

        Raises:
            Forbidden: If the request is proven to come from another site, unless it is a GET that a browser
                sends to open a link.
        """
        origins, sites = request.headers.getlist("origin"), request.headers.getlist("sec-fetch-site")
        own = self.origin(request)
        if len(origins) > 1 or len(sites) > 1 or origins == ["null"]:
            raise Forbidden(
                "The origin of the request is unknown, because its Origin is null or given twice. A possible "
                "cause is Referrer-Policy: no-referrer, set by a proxy or another page; set same-origin."
            )
        origin = _origin(origins[0]) or origins[0] if origins else None
        if origin in self._origins:
            return True
        if sites:
            if sites == ["same-origin"]:
                if origin is not None and _place(origin) != _place(own):
                    raise _foreign(origin, own)
                return True
            if request.method != "POST" and origin is None and _is_allowed_cross_site(sites, request.headers):
                return False
            raise Forbidden(
                f"The request comes from another site (Sec-Fetch-Site: {sites[0][:20]}); use the dashboard's "
                "own pages, or add the site's origin to trusted_origins=."
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
            BadRequest: If the path is invalid, because a redirect to it could lead to another site.
        """
        given = self._prefix
        if given is None:
            prefix = self._forwarded(request.headers, "prefix")
            given = f"{prefix.rstrip('/')}{request.scope.get('root_path', '')}"
        root = _checked_root(given)
        if root is None:
            raise BadRequest(
                f"The mount path must be a plain path, got {given[:100]!r}; fix prefix= or the header "
                "X-Forwarded-Prefix."
            )
        return root

    def _forwarded(self, headers: Headers, name: str) -> str:
        if not self._trusts_proxy:
            return ""
        return headers.get(f"x-forwarded-{name}", "").partition(",")[0].strip()

    # ---- response headers --------------------------------------------------------------------------------

    @staticmethod
    def protect(response: Response, *, hides_path: bool = False) -> None:
        """Add the headers that protect visitors if a page contains hostile data.

        If a page has its own content security policy, the response has both, and a browser applies both.

        Args:
            response: the response to a request.
            hides_path: whether the request's path contains a secret, which browsers must not send in the
                Referer header of other requests.
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
        raise BadRequest("The path must be UTF-8; encode it as UTF-8.") from error
    if _CONTROL.search(path) or _HIDDEN_SLASHES.search(raw.partition(b"?")[0]):
        raise BadRequest(
            "The path must not contain a backslash, an encoded slash or a control character; remove it."
        )
    segments = path.split("/")
    if not path.startswith("/") or "" in segments[1:-1] or not {".", ".."}.isdisjoint(segments):
        raise BadRequest("The path must not contain //, /./ or /../; use a normalized path.")


def _why_not_local(request: Request) -> str | None:
    """Return the reason why a request might come from another machine, or None if it cannot."""
    client = request.client
    if client is None:  # a Unix socket, usually of a proxy, which serves visitors from other machines
        return "its sender's address is unknown"
    if not _is_loopback(client.host):
        return f"it comes from {client.host[:60]}"
    passed_on = next((name for name in request.headers if _is_proxy_header(name)), None)
    if passed_on is not None:
        return f"it has passed through a proxy, which has added the header {passed_on[:60]}"
    if request.scope.get("http_version") == "1.0":  # browsers do not use it, but proxies do by default
        return "it uses HTTP/1.0, which proxies send"
    host = request.headers.get("host")
    if host is None:
        return "it has no Host header"
    return None if _is_local_host(host) else f"it is for the host {host[:100]}"


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


def _is_allowed_cross_site(sites: list[str], headers: Headers) -> bool:
    """Return whether the dashboard may serve a GET that does not come from its own pages.

    Browsers send `Sec-Fetch-Site: none` only for requests that the user makes directly (a typed URL, a
    bookmark). Another site may open the dashboard in a tab, which is a navigation to a document, but may not
    load it in a frame or with fetch. Browsers send the three headers together (Fetch Metadata Request
    Headers, W3C), so a request that lacks one of them is refused.
    """
    modes, destinations = headers.getlist("sec-fetch-mode"), headers.getlist("sec-fetch-dest")
    if sites == ["none"]:
        return modes in ([], ["navigate"])
    return modes == ["navigate"] and destinations == ["document"]


def _origin(text: str) -> str | None:
    """Return scheme://host[:port] in a normalized form for comparison, or None if it is not an origin."""
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
        f"The request comes from {origin[:100]!r}, but this dashboard is at {own[:100]!r}. Behind a proxy "
        "that sets X-Forwarded-Proto and -Host, pass trusts_proxy=True; otherwise add the origin to "
        "trusted_origins=, or let the proxy forward the Host header unchanged."
    )


def _listed(option: str, values: Sequence[str]) -> Sequence[str]:
    if isinstance(values, str):
        raise ConfigurationError(f"{option}= must be a list, got the string {values!r}; use [{values!r}].")
    return values


def _checked_origin(text: str) -> str:
    origin = _origin(text.rstrip("/"))
    if origin is None:
        raise ConfigurationError(
            f"trusted_origins= must contain only origins, got {text!r}; use for example "
            "'https://ops.example.com'."
        )
    return origin


def _checked_host(text: str) -> str:
    host = text.lower()
    name = host.removeprefix("*.")
    if _origin(f"https://{name}") is None or "*" in name:
        raise ConfigurationError(
            f"allowed_hosts= must contain only host names, got {text!r}; use jobs.example.com, "
            "jobs.example.com:8000 or *.example.com."
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
