"""The gate before everything: how a request may look, where it may come from, what each answer carries."""

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

# Under no-referrer browsers send the Origin null with a form, which is refused.
_ORIGIN_ALONE = "strict-origin"

# A request that has passed a proxy says so by one of these; then the peer is the proxy and not the visitor.
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
    """Refuses what must not reach a view.

    Args:
        is_open: there is an `auth=`, so that others than local visitors may be somebody.
        trusts_proxy: `X-Forwarded-Host` and `-Proto` are believed.
        origins: origins besides the dashboard's own that may send forms.
        hosts: names that the dashboard answers to; None for every name.
        prefix: where a browser finds the dashboard; None where the framework or a proxy says.

    Raises:
        ConfigurationError: an origin or a host is none, or the prefix is no path.
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

    # ---- what a request may look like --------------------------------------------------------------------

    def check_shape(self, request: Request) -> None:
        """The request can be understood in one way only.

        Raises:
            RequestProblem: another method than GET, HEAD and POST; two hosts; a path that does not stay the
                same when it is read again.
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

    # ---- where it may come from --------------------------------------------------------------------------

    def check_visitor(self, request: Request) -> None:
        """The request comes from this machine, or `auth=` will tell who sent it.

        Raises:
            NotLocal: it does not, and there is no `auth=`.
            Forbidden: it names a host that is not in `allowed_hosts=`.
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
        """Tell whether the request is proven to come from one of the dashboard's own pages.

        Raises:
            Forbidden: it is proven to come from elsewhere and would change something, or was not made by
                following a link.
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
        """Return http or https as the browser sees it."""
        return (self._forwarded(request.headers, "proto") or str(request.scope.get("scheme", "http"))).lower()

    def port(self, request: Request) -> int:
        """Return the port that the browser asks."""
        return urlsplit(self.origin(request)).port or _PORTS.get(self.scheme(request), 0)

    def root(self, request: Request) -> str:
        """Return where the dashboard is mounted as the browser sees it, without a slash at its end.

        Raises:
            BadRequest: the path is none, and a redirect to it could lead elsewhere.
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

    # ---- what each answer carries ------------------------------------------------------------------------

    @staticmethod
    def protect(response: Response, *, hides_path: bool = False) -> None:
        """The response carries the headers that keep a page of hostile data harmless.

        A policy of a page's own stays beside the dashboard's: a browser applies both.

        Args:
            response: the answer to a request.
            hides_path: the request's path holds a secret, so that no other request may name it in a Referer.
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
    """Return why a request may come from elsewhere than this machine; None where it cannot."""
    client = request.client
    if client is None:  # a unix socket, most often a proxy's: it would make everybody local
        return "its sender's address is not known"
    if not _is_loopback(client.host):
        return f"it comes from {client.host[:60]}"
    passed_on = next((name for name in request.headers if _is_proxy_header(name)), None)
    if passed_on is not None:
        return f"it has passed a proxy, as its header {passed_on[:60]} says"
    if (
        request.scope.get("http_version") == "1.0"
    ):  # no browser speaks it, and proxies do where nobody told them
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

    Only a user can cause `none` (an address that was typed, a bookmark). Every other site may open the
    dashboard in a tab of its own, which is a navigation to a document, and nothing else: no frame, no fetch.
    Browsers send the three headers together (Fetch Metadata Request Headers, W3C), so a missing one is no
    exception.
    """
    modes, destinations = headers.getlist("sec-fetch-mode"), headers.getlist("sec-fetch-dest")
    if sites == ["none"]:
        return modes in ([], ["navigate"])
    return modes == ["navigate"] and destinations == ["document"]


def _origin(text: str) -> str | None:
    """Return scheme://host[:port] in the one form that two of them can be compared in; None for no origin."""
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
    """Return the host with its port: the scheme is the browser's to compare, as TLS may end at a proxy."""
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
    """Return the root percent-encoded; None where it is no path of plain segments."""
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
