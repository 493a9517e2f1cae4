"""What psycopg's errors mean. Codes: PostgreSQL's documentation, appendix A."""

from __future__ import annotations

import psycopg

from firelock_sql.servers.failures import Failure, Meaning

__all__ = ["read_failure"]

# Serialization, deadlock, a lock not to be had in time, a unique key that somebody else was first to write.
_CONFLICTS = frozenset({"40001", "40P01", "55P03", "23505"})
_LOST_CLASSES = frozenset({"08"})
_LOST = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03"})
# Out of resources, canceled, system errors, read-only while another server takes over.
_PASSING_CLASSES = frozenset({"53", "57", "58", "55"})
_PASSING = frozenset({"25006", "25P02", "0A000"})
_HINTS = {
    "28P01": "check the user's name and password",
    "28000": "check the user's name and how this server lets it in (pg_hba.conf)",
    "3D000": "create the database, or name another",
    "42501": "this role may not do that; see the roles in docs/sql.md, and run firelock migrate as the owner",
    "42P01": "run firelock migrate",
    "3F000": "create the schema, or run firelock migrate as a role that may",
    "25006": "it takes no writes: a standby, or just becoming one",
}


def read_failure(error: BaseException) -> Failure | None:
    """Return what an error of psycopg means, None where it is none of its errors."""
    if isinstance(error, psycopg.Error):
        code = error.sqlstate
        return Failure(_meaning(error, code), _text(error, code))
    return _of_another_driver(error)


def _of_another_driver(error: BaseException) -> Failure | None:
    """Return what an error means that a caller's connection by asyncpg or psycopg2 raised."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if not isinstance(code, str):
        return None
    meaning = Meaning.CONFLICT if code in _CONFLICTS else Meaning.LASTING
    if code[:2] in _PASSING_CLASSES | _LOST_CLASSES:
        meaning = Meaning.PASSING
    hint = _HINTS.get(code, "")
    return Failure(meaning, f"error {code} of the caller's connection{'; ' if hint else ''}{hint}.")


def _meaning(error: psycopg.Error, code: str | None) -> Meaning:
    if code is None:
        is_lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return Meaning.LOST if is_lost else Meaning.LASTING
    if code in _CONFLICTS:
        return Meaning.CONFLICT
    if code in _LOST or code[:2] in _LOST_CLASSES:
        return Meaning.LOST
    if code in _PASSING or code[:2] in _PASSING_CLASSES:
        return Meaning.PASSING
    return Meaning.LASTING


def _text(error: psycopg.Error, code: str | None) -> str:
    """Return the server's one line, without its details: they hold values."""
    said = error.diag.message_primary or next(iter(str(error).strip().splitlines()), type(error).__name__)
    hint = _HINTS.get(code or "", "")
    return f"{said.rstrip('.')}{'; ' if hint else ''}{hint}."
