"""Delivery by one signed request to a checked address, without redirects and within a time limit.

A webhook's URL is as secret as its key, so the errors of this module contain neither.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from firelock import ConfigurationError, FirelockError

if TYPE_CHECKING:
    from firelock import JsonValue

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

TIMESTAMP, SIGNATURE = "Firelock-Timestamp", "Firelock-Signature"
_SECONDS = 20.0  # time limit of the whole request
_CONNECT_SECONDS = 5.0  # time limit per address
_VERSION = "v1="
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_TRY_AGAIN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}


class DeliveryFailed(FirelockError):
    """The delivery of a webhook failed; another attempt might succeed."""


class DeliveryRefused(FirelockError):
    """The delivery of a webhook failed permanently: its address is not allowed or the receiver refused it."""


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """Return the signature of a body sent at this time: HMAC-SHA256 of "TIMESTAMP.BODY", in hexadecimal."""
    signed = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return f"{_VERSION}{signed.hexdigest()}"


def verify(
    headers: Mapping[str, str], body: bytes, secret: str, *, tolerance: float = 300, now: float | None = None
) -> bool:
    """Return whether a request is recent and was signed with the secret; for receivers in Python.

    Args:
        headers: the headers of the request, in upper or lower case.
        body: the received bytes, before they are parsed.
        secret: the webhook's secret.
        tolerance: the maximum difference between the request's time and this host's clock, in seconds.
        now: the current time, in seconds since 1970; by default this host's clock.
    """
    given = {name.lower(): value for name, value in headers.items()}
    timestamp, signature = given.get(TIMESTAMP.lower(), ""), given.get(SIGNATURE.lower(), "")
    if not (timestamp.isascii() and timestamp.isdigit()) or len(timestamp) > len("9" * 15):
        return False
    if abs((time.time() if now is None else now) - int(timestamp)) > tolerance:
        return False
    return hmac.compare_digest(
        signature.encode(errors="replace"), sign(secret, int(timestamp), body).encode()
    )


def check_url(url: str, name: str) -> SplitResult:
    """Check a webhook's URL and return its parts.

    Raises:
        ConfigurationError: If the URL is neither an https URL nor an http URL of this host itself, or if it
            contains a password or a fragment. The message does not contain the URL.
    """
    subject = f"The URL of webhook {name!r}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except (ValueError, AttributeError, TypeError):
        raise ConfigurationError(f"{subject} cannot be parsed; check its brackets and its port.") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError(f"{subject} must be an https URL with a host; use https://host/path.")
    if parts.scheme == "http" and not is_this_host(host):
        raise ConfigurationError(f"{subject} must use https, because its host is not this host.")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ConfigurationError(
            f"{subject} must not contain a user name, a password or a fragment; put a token into its path."
        )
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError(f"{subject} contains characters that a URL must not contain; encode them.")
    return parts


def is_this_host(host: str) -> bool:
    """Return whether a URL's host always means this host, regardless of name servers."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def may_be_reached(address: Address, host: str, networks: Sequence[Network]) -> bool:
    """Return whether a request may be sent to an address, which must be public or in an allowed network.

    A loopback address is allowed only if the URL itself names it. An IPv6 address that represents an IPv4
    address is treated as that address.
    """
    inner = _inner(address)
    if any(one in network for network in networks for one in (address, inner)):
        return True
    if inner.is_loopback:
        return is_this_host(host)
    return inner.is_global and not inner.is_multicast


def _inner(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, address))[1]


def deliver(
    name: str,
    url: str,
    secret: str,
    event: Mapping[str, JsonValue],
    networks: Sequence[Network],
    *,
    chat_field: str | None = None,
) -> int:
    """Send the event, or only its text in the chat field; return the status of the response.

    Raises:
        DeliveryFailed: If the receiver did not respond in time, or requested another attempt.
        DeliveryRefused: If the receiver returned any other status, such as a redirect, or its address is not
            allowed.
    """
    parts = check_url(url, name)
    payload = event if chat_field is None else {chat_field: _text_of(event)}
    body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    timestamp = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Firelock-Webhook",
        "Firelock-Event": str(event.get("event", "")),
        "Firelock-Event-Id": str(event.get("id", "")),
        TIMESTAMP: str(timestamp),
        SIGNATURE: sign(secret, timestamp, body),
    }
    path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    connection = _Connection(parts, networks, name)
    timer = threading.Timer(_SECONDS, connection.give_up)
    timer.daemon = True
    timer.start()
    try:
        connection.request("POST", path, body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        # The message does not include the error's own message, which can contain the host.
        raise DeliveryFailed(f"Webhook {name!r} could not be delivered: {type(error).__name__}.") from None
    finally:
        timer.cancel()
        connection.close()
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return status
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRY_AGAIN:
        raise DeliveryFailed(f"The receiver of webhook {name!r} returned status {status}.")
    raise DeliveryRefused(
        f"The receiver of webhook {name!r} returned status {status}; redirects are not followed."
    )


def _text_of(event: Mapping[str, JsonValue]) -> str:
    source = event.get("source")
    return f"{event.get('text', '')}" if source is None else f"{source}: {event.get('text', '')}"


class _Connection(http.client.HTTPConnection):
    """A connection to exactly the address that was checked, so that DNS cannot change it in the meantime."""

    def __init__(self, parts: SplitResult, networks: Sequence[Network], name: str) -> None:
        self._is_secure = parts.scheme == "https"
        self.default_port = 443 if self._is_secure else 80  # the Host header omits the default port
        super().__init__(parts.hostname or "", parts.port or self.default_port, timeout=_CONNECT_SECONDS)
        self._networks, self._name = networks, name
        self._is_given_up = False

    def connect(self) -> None:
        """Connect the socket to the first allowed address that responds."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        allowed = [each for each in found if self._may_be_reached(str(each[4][0]))]
        if not allowed:
            raise DeliveryRefused(
                f"The host of webhook {self._name!r} has an address that is not public. To allow it, add its "
                'network: Webhook(…, networks=["10.1.0.0/16"]).'
            )
        failure = OSError()
        for family, kind, protocol, _, address in allowed:
            self.sock = socket.socket(family, kind, protocol)
            self.sock.settimeout(_CONNECT_SECONDS)
            try:
                self.sock.connect(address)
                if self._is_secure:
                    self._secure(self.sock)
            except OSError as error:
                self.sock.close()
                failure = error
            else:
                return
            if self._is_given_up:
                break
        raise failure

    def _may_be_reached(self, text: str) -> bool:
        address = ipaddress.ip_address(text.partition("%")[0])  # the address without the interface
        return may_be_reached(address, self.host, self._networks)

    def _secure(self, plain: socket.socket) -> None:
        """Do the TLS handshake, which `give_up` can interrupt."""
        context = ssl.create_default_context()
        secured = context.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = secured
        secured.do_handshake()

    def give_up(self) -> None:
        """Interrupt every wait for the socket."""
        self._is_given_up = True
        if (sock := self.sock) is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
