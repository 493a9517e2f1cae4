"""Redis URLs: the addresses of the servers, the credentials, and Firelock's own options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import attrs

from firelock import ConfigurationError
from firelock.storage import shown_url

MAX_PARTITIONS = 256
_CLUSTER_PARTITIONS = 16
_PORT, _SENTINEL_PORT = 6379, 26379
_NO_AND_YES = ("false", "true")
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_OPTIONS = frozenset(
    {
        "prefix", "partitions", "durability", "replicas", "timeout", "eviction", "db",
        "sentinel_username", "sentinel_password", *_TLS,
    }
)  # fmt: skip


@attrs.frozen
class RedisUrl:
    """The address and the options in a Redis URL; `str()` returns the URL without passwords."""

    text: str  # the URL as given, including the password
    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""  # path of a unix socket
    service: str = ""  # name of the primary in the Sentinels' configuration
    database: int = 0
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = attrs.field(default=None, repr=False)
    tls: Mapping[str, object] | None = None  # TLS options of the driver; None: no TLS
    prefix: str = "firelock"
    partitions: int = 1
    replicas: int = 0  # number of replicas that must have received an enqueued job before `insert` returns
    timeout_seconds: float = 5.0
    refuses_eviction: bool = True

    def __str__(self) -> str:
        return shown(self.text)

    @property
    def is_cluster(self) -> bool:
        """Whether the hosts are nodes of a Redis Cluster."""
        return self.scheme.endswith("+cluster")

    @property
    def is_sentinel(self) -> bool:
        """Whether the hosts are Sentinels."""
        return self.scheme.endswith("+sentinel")


def shown(text: str) -> str:
    """Return a URL without its passwords, including those in its options."""
    bare, mark, query = shown_url(text).partition("?")
    if "password" not in query:
        return bare + mark + query
    options = [
        (name, "***" if "password" in name else value)
        for name, value in parse_qsl(query, keep_blank_values=True)
    ]
    return f"{bare}?{urlencode(options, quote_via=quote, safe='*/:,')}"


def parse_url(text: str) -> RedisUrl:
    """Return the address and the options that the URL contains.

    Raises:
        ConfigurationError: If a part of the URL is not valid.
    """
    parts = urlsplit(text)
    options = _options(text, parts.query)
    user, at, hosts = parts.netloc.rpartition("@")
    username, _, password = user.partition(":")
    scheme = parts.scheme
    fields: dict[str, object] = {
        "text": text,
        "scheme": scheme,
        "username": unquote(username) or None,
        "password": unquote(password) or None if at else None,
        "tls": _tls(text, options) if scheme.startswith("rediss") else None,
    }
    if scheme == "unix":
        if not parts.path.strip("/"):
            raise _wrong(text, "has no socket path", "Use unix:///path/to/redis.sock.")
        fields |= {"path": unquote(parts.path), "database": _number(text, options, "db", 0, (0, 1_000_000))}
    else:
        default = _SENTINEL_PORT if scheme.endswith("+sentinel") else _PORT
        fields["hosts"] = tuple(_host(text, host, default) for host in hosts.split(","))
        fields |= _place(text, scheme, parts.path.strip("/"), options)
    return RedisUrl(**fields, **_chosen(text, scheme, options))  # type: ignore[arg-type]


def _options(text: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(options.keys() - _OPTIONS):
        raise _wrong(
            text, f"has an unknown option {unknown[0]!r}", f"Use one of {', '.join(sorted(_OPTIONS))}."
        )
    return options


def _host(text: str, host: str, default: int) -> tuple[str, int]:
    name, port = host, ""
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    elif ":" in host:
        name, _, port = host.rpartition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):  # noqa: PLR2004 - a port
        raise _wrong(text, f"has the port {port!r}", "Use a number from 1 to 65535.")
    return unquote(name) or "localhost", int(port or default)


def _place(text: str, scheme: str, path: str, options: Mapping[str, str]) -> dict[str, object]:
    """Return the fields that are set by the path of a URL: the database and, with Sentinels, the service."""
    service = ""
    if scheme.endswith("+sentinel"):
        service, _, path = path.partition("/")
        if not service:
            raise _wrong(text, "has no service name", "Use redis+sentinel://host:26379,host:26379/mymaster.")
    database = _number(text, {"db": path or options.get("db", "0")}, "db", 0, (0, 1_000_000))
    if database and scheme.endswith("+cluster"):
        raise _wrong(text, f"has database {database}", "A cluster has only database 0; remove the database.")
    return {"service": unquote(service), "database": database}


def _chosen(text: str, scheme: str, options: Mapping[str, str]) -> dict[str, object]:
    prefix = options.get("prefix", "firelock")
    if not _PREFIX.fullmatch(prefix):
        raise _wrong(
            text, f"has the prefix {prefix!r}", "Use 1 to 64 characters: letters, digits and _ . : -."
        )
    default = _CLUSTER_PARTITIONS if scheme.endswith("+cluster") else 1
    durability = _choice(text, options, "durability", "server", "replicated")
    eviction = _choice(text, options, "eviction", "refuse", "allow")
    return {
        "prefix": prefix,
        "partitions": _number(text, options, "partitions", default, (1, MAX_PARTITIONS)),
        "replicas": _number(text, options, "replicas", 1, (1, 100)) if durability == "replicated" else 0,
        "timeout_seconds": float(_number(text, options, "timeout", 5, (1, 3_600))),
        "refuses_eviction": eviction == "refuse",
        "sentinel_username": options.get("sentinel_username"),
        "sentinel_password": options.get("sentinel_password"),
    }


def _number(text: str, options: Mapping[str, str], name: str, default: int, within: tuple[int, int]) -> int:
    least, most = within
    value = options.get(name, str(default))
    if not (value.isascii() and value.isdigit() and least <= int(value) <= most):
        raise _wrong(text, f"has {name}={value!r}", f"Use an integer from {least} to {most}.")
    return int(value)


def _choice(text: str, options: Mapping[str, str], name: str, *choices: str) -> str:
    """Return the value of the option, or the first choice if the option is not set."""
    value = options.get(name, choices[0])
    if value not in choices:
        raise _wrong(text, f"has {name}={value!r}", f"Use {' or '.join(choices)}, or remove the option.")
    return value


def _tls(text: str, options: Mapping[str, str]) -> dict[str, object]:
    chosen: dict[str, object] = {name: options[name] for name in _TLS if name in options}
    wants = _choice(text, options, "ssl_cert_reqs", "required", "optional", "none")
    checks = _choice(
        text, options, "ssl_check_hostname", *(_NO_AND_YES if wants == "none" else _NO_AND_YES[::-1])
    )
    return {**chosen, "ssl_cert_reqs": wants, "ssl_check_hostname": checks == "true"}


def _wrong(text: str, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError(f"Storage URL {shown(text)} {problem}. {fix}")
