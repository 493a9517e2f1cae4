"""One-time links and their sessions, which give visitors access to a dashboard without an `auth=`.

No part of a request proves that it comes from this machine, because a proxy next to the app can send the same
headers as a browser. So a visitor must send a token, which only a person who can run code with the storage's
address can create. The storage contains only hashes of tokens, as records. Every process that serves the
dashboard can check tokens against them, but a reader of a backup cannot use them to log in.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import attrs

from firelock.flows.approval import dashboard_address
from firelock_dashboard.problems import Forbidden, NoSession
from firelock_dashboard.security.permissions import LEVELS, Access

if TYPE_CHECKING:
    from starlette.requests import Request

    from firelock import Firelock

ENTER = "/enter"  # the path of the page that exchanges a link
COOKIE = "firelock_session"  # the port is appended, because cookies of a host are sent to all of its ports
LINK_SECONDS = 600
SESSION_SECONDS = 7 * 86_400

_LINK, _SESSION = "dashboard_link", "dashboard_session"
_KEPT = 100  # the maximum number of links, and of sessions; the oldest are deleted first
_LISTED = 500
_CACHED = 30.0  # seconds until a valid session is looked up again
_COOKIES = 8  # maximum number of sessions in one request
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_MICRO = 1_000_000


@attrs.define
class _SeenSession:
    """A session that was found in the storage."""

    ends: float  # a monotonic time, like `seen`
    seen: float


class Links:
    """The one-time links of a dashboard, and the sessions for which they are exchanged."""

    def __init__(self, fire: Firelock, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fire = fire
        self._monotonic = monotonic
        self._known: dict[str, _SeenSession] = {}  # known sessions by their hash
        self._lock = threading.Lock()

    # ---- links -------------------------------------------------------------------------------------------

    def make(self, at: str, *, opens: bool = False) -> str:
        """Return a link that one visitor can use once, within ten minutes.

        The token is in the fragment of the link, which browsers do not send. So it does not appear in a
        proxy's access log or in the Referer of another page.

        Args:
            at: the address of the dashboard in a browser, for example "http://127.0.0.1:8000/jobs".
            opens: whether the page uses the link automatically; for a link that only a browser receives.

        Raises:
            ConfigurationError: If `at` is not the URL of a page.
            StorageUnavailable: If the storage is unreachable.
        """
        address = dashboard_address(at)
        token = self._stored(_LINK, LINK_SECONDS)
        return f"{address}{ENTER}#{'open=' if opens else ''}{token}"

    def exchange(self, token: str) -> str:
        """Use up the link, and return the session that it grants.

        Raises:
            Forbidden: If the link does not exist, has expired or has been used.
            StorageUnavailable: If the storage is unreachable.
        """
        storage, key = self._fire.storage, _hash(token)
        record = storage.get_record(_LINK, key) if _TOKEN.match(token) else None
        if record is None:
            raise Forbidden("This link does not exist on this dashboard, or was deleted; create another one.")
        value = _read(record.value)
        if value.get("used_at"):
            raise Forbidden(
                "This link has been used, and a link works only once. If you have not used it, another "
                "person has read it; check who can see that terminal. Then create another link."
            )
        if _number(value, "expires_at") <= self._now():
            raise Forbidden("This link is older than ten minutes; create another one.")
        used = json.dumps({**value, "used_at": self._now()})
        if storage.put_record(_LINK, key, used, expected_version=record.version) is None:
            raise Forbidden("Another visitor has just used this link; create another one.")
        return self._stored(_SESSION, SESSION_SECONDS)

    # ---- sessions ----------------------------------------------------------------------------------------

    def access(self, request: Request) -> Access:
        """Return full access if the sender has a valid session.

        A valid session is accepted for half a minute without another lookup, and also while the storage is
        unreachable.

        Raises:
            NoSession: If the request contains no valid session.
            StorageUnavailable: If the storage is unreachable, and no session of the request is cached.
        """
        keys = list(map(_hash, _shown(request.headers.getlist("cookie"))))
        now = self._monotonic()
        if any(self._is_cached(key, now) for key in keys) or any(self._is_valid(key, now) for key in keys):
            return Access(LEVELS["admin"], "local")
        raise NoSession("You need a link to sign in.")

    def _is_cached(self, key: str, now: float) -> bool:
        with self._lock:
            known = self._known.get(key)
            return known is not None and now < known.ends and now < known.seen + _CACHED

    def _is_valid(self, key: str, now: float) -> bool:
        try:
            record = self._fire.storage.get_record(_SESSION, key)
            left = 0 if record is None else _number(_read(record.value), "expires_at") - self._now()
        except Exception:
            with self._lock:
                known = self._known.get(key)
            if known is not None and now < known.ends:
                return True
            raise
        with self._lock:
            if left <= 0:
                self._known.pop(key, None)
                return False
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[key] = _SeenSession(now + left / _MICRO, now)
        return True

    def end(self, request: Request) -> list[str]:
        """End the sessions in the request, and return the names of their cookies.

        All of them are ended, because any of them would give the visitor access again. Another process of the
        dashboard may accept an ended session for up to half a minute.

        Raises:
            StorageUnavailable: If the storage is unreachable; a session may then remain valid.
        """
        names = []
        for name, token in _session_cookies(request.headers.getlist("cookie")):
            key = _hash(token)
            if self._fire.storage.delete_record(_SESSION, key):
                names.append(name)
            with self._lock:
                self._known.pop(key, None)
        return names

    # ---- records -----------------------------------------------------------------------------------------

    def _stored(self, kind: str, seconds: int) -> str:
        """Store a token that is valid for this duration, and return it.

        If there are too many tokens, the oldest are deleted.
        """
        self._prune(kind)
        token = secrets.token_urlsafe(32)
        value = {"expires_at": self._now() + seconds * _MICRO}
        self._fire.storage.put_record(kind, _hash(token), json.dumps(value), expected_version=0)
        return token

    def _prune(self, kind: str) -> None:
        storage, now = self._fire.storage, self._now()
        found = [
            (_number(_read(record.value), "expires_at"), record.key)
            for record in storage.list_records(kind, limit=_LISTED)
        ]
        kept = sorted((each for each in found if each[0] > now), reverse=True)[: _KEPT - 1]
        for _, key in set(found) - set(kept):
            storage.delete_record(kind, key)

    def _now(self) -> int:
        return self._fire.client.clock.now()


def _shown(headers: Iterable[str]) -> list[str]:
    """Return the sessions in a request, which may include sessions of other dashboards on the host.

    A request to a dashboard at `/jobs` can have several cookies of the same name, because browsers also send
    the cookie of a dashboard at `/`.
    """
    return list(dict.fromkeys(token for _, token in _session_cookies(headers)))


def _session_cookies(headers: Iterable[str]) -> list[tuple[str, str]]:
    """Return the names and values of the cookies that may be sessions."""
    pairs = (pair.strip().partition("=") for header in headers for pair in header.split(";"))
    found = [(name, value) for name, _, value in pairs if name.startswith(COOKIE) and _TOKEN.match(value)]
    return list(dict.fromkeys(found))[:_COOKIES]


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _read(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: dict[str, object], name: str) -> int:
    found = value.get(name)
    return found if isinstance(found, int) else 0
