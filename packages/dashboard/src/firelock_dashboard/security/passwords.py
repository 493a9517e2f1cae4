"""Passwords and tokens, for dashboards that are not protected by a framework's own users."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Mapping

import attrs
from starlette.requests import Request

from firelock import ConfigurationError
from firelock_dashboard.problems import RequestProblem, Unauthorized
from firelock_dashboard.security.permissions import Access, Auth, Level, to_access

_SCHEME = "scrypt"
_COST, _BLOCK, _LANES = 2**15, 8, 1
_MEMORY = 64 * 1024 * 1024
_LARGEST_COST = 2**20
_SALT = 16
_DIGEST = 32
_LONGEST = 1_024  # the maximum number of characters of a submitted password
_SHORTEST_TOKEN = 16
_LOG_IN = "The request has no valid credentials; send the name and password of this dashboard."
_AT_ONCE = 2  # the maximum number of concurrent hashes; each needs 0.1 s of CPU time and 32 MiB
_WAIT_SECONDS = 1.0  # a request that waits longer is refused, so that no thread waits for long
_WAITING = 8  # the maximum number of waiting requests; each occupies one of about forty threads of the host
_TURNS = threading.BoundedSemaphore(_AT_ONCE)
_PLACES = threading.BoundedSemaphore(_AT_ONCE + _WAITING)


def hash_password(password: str, *, salt: bytes | None = None) -> str:
    """Return a salted scrypt hash, `scrypt:32768:8:1:salt:hash`, for `basic_auth`; this takes about 0.1 s.

    Raises:
        ConfigurationError: If the password is empty.
    """
    if not password:
        raise ConfigurationError("The password must not be empty; set one.")
    salt = os.urandom(_SALT) if salt is None else salt
    digest = _scrypt(password, salt, _COST, _BLOCK, _LANES)
    texts = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (salt, digest))
    return ":".join([_SCHEME, str(_COST), str(_BLOCK), str(_LANES), *texts])


def basic_auth(
    users: Mapping[str, str], *, level: Level | Mapping[str, Level] = "admin", realm: str = "Firelock"
) -> Auth:
    """Return an auth that makes the browser prompt for a name and a password. Use it over HTTPS.

    Args:
        users: passwords by name: a hash created with `hash_password`, or the password itself, for example
            from the environment.
        level: one level for all users, or levels by name.
        realm: the name of the dashboard in the browser's dialog.

    At most two passwords are hashed at the same time, and at most eight requests wait. All other requests,
    and requests that have waited for a second, get a 429. A request without a name and a password is refused
    immediately.

    Raises:
        ConfigurationError: If there are no users, if a password is empty, or if a hash or level is invalid.
    """
    checks = {name: _check_of(name, password) for name, password in users.items()}
    if not checks:
        raise ConfigurationError("basic_auth() has no users; pass names with passwords.")
    by_name = isinstance(level, Mapping)
    grants = {name: to_access(level.get(name) if by_name else level) for name in checks}  # type: ignore[union-attr]
    check_unknown = _check_of_unknown(users)
    challenge = {"WWW-Authenticate": f'Basic realm="{_quoted(realm)}", charset="UTF-8"'}

    def ask_for_password(request: Request) -> Access:
        name, password = _sent_password(request)
        if not (name and password):  # without credentials, skip the cost of a hash
            raise Unauthorized(_LOG_IN, headers=challenge)
        is_right = checks.get(name, check_unknown)(
            password
        )  # an unknown name must take as long as a known name
        if not (is_right and name in checks):
            raise Unauthorized(_LOG_IN, headers=challenge)
        return Access(grants[name].permissions, name)

    return ask_for_password


def bearer_tokens(tokens: Mapping[str, Level | Access]) -> Auth:
    """Return an auth for programs: `Authorization: Bearer <token>` grants the token's level.

    A request with such a token needs no Origin, because no page of another site can make a browser send it.
    Create tokens with `secrets.token_urlsafe()`.

    Raises:
        ConfigurationError: If there are no tokens, if a token is shorter than 16 characters, or if a level is
            invalid.
    """
    grants = [(_digest(_checked_token(token)), _by_token(token, level)) for token, level in tokens.items()]
    if not grants:
        raise ConfigurationError("bearer_tokens() has no tokens; pass tokens with their levels.")

    def ask_for_token(request: Request) -> Access:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        sent = _digest(token.strip()) if scheme.lower() == "bearer" else b""
        found = None
        for digest, access in grants:  # compare all of them, so that the duration reveals nothing
            if hmac.compare_digest(digest, sent):
                found = access
        if found is None:
            raise Unauthorized(
                "The request has no valid token; send the header Authorization: Bearer <token>.",
                headers={"WWW-Authenticate": 'Bearer realm="Firelock"'},
            )
        return found

    return ask_for_token


# ---- passwords -------------------------------------------------------------------------------------------


@attrs.frozen
class _Hash:
    """A password's hash; the last correct password is recognized without hashing it again."""

    cost: int
    block: int
    lanes: int
    salt: bytes
    digest: bytes
    _key: bytes = attrs.field(factory=lambda: os.urandom(32), repr=False)
    _known: list[bytes] = attrs.field(factory=list, repr=False)  # at most one entry

    def __call__(self, password: str) -> bool:
        mark = hmac.digest(self._key, password.encode(), "sha256")
        if self._known and hmac.compare_digest(self._known[0], mark):
            return True
        sent = _in_turn(lambda: _scrypt(password, self.salt, self.cost, self.block, self.lanes))
        is_right = hmac.compare_digest(sent, self.digest)
        if is_right:
            self._known[:] = [mark]
        return is_right


def _in_turn(work: Callable[[], bytes]) -> bytes:
    """Call the function and return its result; at most two calls run at the same time.

    Only a few requests may wait, so that a flood of them does not occupy all threads of the host.

    Raises:
        RequestProblem: If too many requests wait, or if this one has waited for a second.
    """
    busy = RequestProblem(
        "Too many passwords are being checked; send the request again in a moment.",
        status=429, headers={"Retry-After": "1"},
    )  # fmt: skip
    if not _PLACES.acquire(blocking=False):
        raise busy
    try:
        if not _TURNS.acquire(timeout=_WAIT_SECONDS):
            raise busy
        try:
            return work()
        finally:
            _TURNS.release()
    finally:
        _PLACES.release()


def _check_of(name: str, password: str) -> Callable[[str], bool]:
    """Return a function that checks a password."""
    if ":" in name:
        raise ConfigurationError(
            f"The name {name!r} must not contain a colon, which ends the name in a request; remove the colon."
        )
    if not isinstance(password, str) or not password:
        raise ConfigurationError(
            f"The password of {name!r} must be a string that is not empty; set one, or remove the name."
        )
    if password.startswith(f"{_SCHEME}:"):
        return _hash_of(name, password)
    right = _digest(password)
    return lambda sent: hmac.compare_digest(_digest(sent), right)


def _hash_of(name: str, text: str) -> _Hash:
    try:
        _, cost, block, lanes, salt, digest = text.split(":")
        numbers = int(cost), int(block), int(lanes)
        found = _Hash(*numbers, _decoded(salt), _decoded(digest))
        if not (_is_bounded(*numbers) and len(found.digest) == _DIGEST):
            raise ValueError(text)
    except (ValueError, binascii.Error) as error:
        raise ConfigurationError(
            f"The hash of {name!r} is invalid; create one with hash_password()."
        ) from error
    return found


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _scrypt(password: str, salt: bytes, cost: int, block: int, lanes: int) -> bytes:
    memory = max(_MEMORY, 256 * cost * block)
    return hashlib.scrypt(
        password.encode(), salt=salt, n=cost, r=block, p=lanes, maxmem=memory, dklen=_DIGEST
    )


def _sent_password(request: Request) -> tuple[str, str]:
    """Return the name and password in the request; without them, empty strings, which match no user."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic" or len(text) > 4 * _LONGEST:
        return "", ""
    try:
        name, colon, password = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (ValueError, binascii.Error):
        return "", ""
    return (name, password) if colon and len(password) <= _LONGEST else ("", "")


def _is_bounded(cost: int, block: int, lanes: int) -> bool:
    """Return whether scrypt accepts these parameters and finishes within seconds."""
    return 1 < cost <= _LARGEST_COST and cost & (cost - 1) == 0 and 0 < block <= 32 and 0 < lanes <= 16  # noqa: PLR2004


def _check_of_unknown(users: Mapping[str, str]) -> Callable[[str], bool]:
    """Return a check for unknown names, which takes as long as a real check and never succeeds."""
    if any(password.startswith(f"{_SCHEME}:") for password in users.values()):
        return _Hash(_COST, _BLOCK, _LANES, os.urandom(_SALT), os.urandom(_DIGEST))
    return _check_of("", os.urandom(_DIGEST).hex())


def _quoted(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise ConfigurationError(
            f"realm= must contain only printable ASCII, because it is sent in a header, got {text!r}."
        )
    return text.replace("\\", "\\\\").replace('"', '\\"')


# ---- tokens ----------------------------------------------------------------------------------------------


def _checked_token(token: str) -> str:
    if not isinstance(token, str) or len(token) < _SHORTEST_TOKEN or not token.isascii() or " " in token:
        raise ConfigurationError(
            f"A token must have at least {_SHORTEST_TOKEN} characters, only ASCII, and no spaces; create one "
            "with secrets.token_urlsafe()."
        )
    return token


def _by_token(token: str, level: Level | Access) -> Access:
    access = to_access(level)
    name = access.name or f"token {_digest(token).hex()[:6]}"
    return Access(access.permissions, name, has_token=True)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
