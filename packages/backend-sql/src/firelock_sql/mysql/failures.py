"""What the errors of PyMySQL, mysqlclient and asyncmy mean, by their numbers. aiomysql's are PyMySQL's.

Numbers: the error reference of MySQL's manual, and MariaDB's from 1900 on. Above 2000 are the client's own.
"""

from __future__ import annotations

import re
import sys

from sqlalchemy.exc import DBAPIError

from firelock_sql.servers.failures import Failure, Meaning

__all__ = ["read_failure"]

# A deadlock, a lock not to be had in time, a key that somebody else was first to write, a row or a table that
# has changed since the snapshot. Galera tells conflicts of a commit as deadlocks too.
_CONFLICTS = frozenset({1213, 1205, 1062, 1020, 1412, 3572})
_LOST = frozenset({0, 1053, 1158, 1159, 1160, 1161, 1927, 2006, 2013, 2014, 2055, 3169, 4031})
# Too many connections, out of resources, read only while another server takes over, stopped by a limit.
_PASSING = frozenset(
    {1021, 1037, 1038, 1040, 1041, 1047, 1114, 1129, 1203, 1226, 1290, 1305, 1317, 1836, 1969, 2002, 2003,
     2005, 3024}
)  # fmt: skip
_HINTS = {
    1040: "lower ?pool_size=, or raise max_connections",
    1044: "check what the user is granted: GRANT ALL ON database.* TO user",
    1045: "check the user's name and password, and the hosts it may come from",
    1049: "create the database, or name another",
    1114: "there is no room left for it",
    1129: "somebody has to run mariadb-admin flush-hosts, or mysqladmin flush-hosts",
    1142: "check what the user is granted, and run firelock migrate as a user who may create tables",
    1146: "run firelock migrate",
    1153: "raise max_allowed_packet on the server, or store less in a job",
    1203: "lower ?pool_size=, or raise what the user may have (max_user_connections)",
    1290: "it takes no writes: a replica, or just becoming one",
    1665: "set binlog_format=ROW on the server",
    1836: "it takes no writes: a replica, or just becoming one",
}
# Told in our words where the server's own would hold values, or would say too little.
_SENTENCES = {
    0: "the connection is closed",
    1062: "somebody else was first to write a key",
    1305: "a deadlock has undone the caller's whole transaction; run it again",
    1366: "it cannot hold a character of this call",
    1406: "a value is too long for its column",
}
_TELLING = frozenset(
    {*_HINTS, 1041, 1047, 1053, 1205, 1213, 1226, 1317, 1927, 1969, 2002, 2003, 2005, 2006, 2013,
     3024, 4031}
)  # fmt: skip
_QUOTED = re.compile(r"(?:'.*'|\".*\")", re.DOTALL)


def read_failure(error: BaseException) -> Failure | None:
    """Return what an error of a driver means, None where it is none of its errors."""
    if isinstance(error, DBAPIError) and error.orig is not None:  # of the engine's own first questions
        return read_failure(error.orig)
    if isinstance(error, RuntimeError) and "cryptography" in str(error):
        text = 'the server asks for a password in a way that needs more: pip install "pymysql[rsa]", or TLS.'
        return Failure(Meaning.LASTING, text)
    if not _is_of_driver(error):
        return None
    number, said = _parts(error)
    return Failure(_meaning(error, number), _text(number, said))


def _is_of_driver(error: BaseException) -> bool:
    loaded = (sys.modules.get(name) for name in ("pymysql", "MySQLdb", "asyncmy.errors"))
    return any(module is not None and isinstance(error, module.MySQLError) for module in loaded)


def _parts(error: BaseException) -> tuple[int | None, str]:
    number, *rest = [*error.args, None]
    if isinstance(number, int):
        return number, str(rest[0] or "")
    return None, str(number or "")


def _meaning(error: BaseException, number: int | None) -> Meaning:
    if number in _CONFLICTS:
        return Meaning.CONFLICT
    if number in _LOST or type(error).__name__ == "InterfaceError":
        return Meaning.LOST
    return Meaning.PASSING if number in _PASSING else Meaning.LASTING


def _text(number: int | None, said: str) -> str:
    """Return one line; what the server quotes of a statement stays out of it."""
    if number in _SENTENCES:
        line = _SENTENCES[number]
    else:
        shown = said if number in _TELLING else _QUOTED.sub("'…'", said)
        line = next(iter(shown.strip().splitlines()), "").rstrip(".") or "an error without a word"
    hint = _HINTS.get(number or -1, "")
    code = "" if number is None or number in _SENTENCES else f" (error {number})"
    return f"{line}{code}{'; ' if hint else ''}{hint}."
