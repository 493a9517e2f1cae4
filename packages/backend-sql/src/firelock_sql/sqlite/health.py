"""Descriptions and checks of a database file, for the start of a server and for `firelock doctor`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from firelock.storage import Finding, Severity
from firelock_sql.connections.url import SqliteUrl

_SAFE_FROM = (3, 51, 3)
_LARGE_LOG = 64 * 1024 * 1024
_REMOTE = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "sshfs",
    "fuse.sshfs",
    "ceph",
    "glusterfs",
    "fuse.glusterfs",
    "afs",
    "lustre",
)
_DURABILITY = {
    "full": "full: what was acknowledged is on the disk",
    "normal": "normal: a power failure may take the last commits, nothing else does",
}


def describe(cursor: sqlite3.Cursor, url: SqliteUrl, wake: str) -> Mapping[str, str]:
    """Return a description of the file and its settings."""
    return {
        "storage": str(url),
        "file": str(url.path),
        "durability": _DURABILITY[url.synchronous],
        "journal": _journal_mode(cursor),
        "sqlite": sqlite3.sqlite_version,
        "wake": wake,
    }


def diagnose(cursor: sqlite3.Cursor, url: SqliteUrl) -> list[Finding]:
    """Return the problems that may occur with this file, and how to fix them."""
    findings = []
    if sqlite3.sqlite_version_info < _SAFE_FROM:
        findings.append(
            Finding(
                Severity.NOTE,
                "sqlite_version",
                f"SQLite {sqlite3.sqlite_version} may, rarely, damage a database when it resets its log.",
                "Use a Python that brings SQLite 3.51.3 or newer.",
            )
        )
    if (kind := file_system_of(url.path)).startswith(_REMOTE):
        findings.append(
            Finding(
                Severity.ERROR,
                "sqlite_network_file",
                f"{url.path} lies on a network file system ({kind}), where SQLite's locks do not hold.",
                "Move the file to a local disk, or use a server such as PostgreSQL.",
            )
        )
    if (mode := _journal_mode(cursor)) != "wal":
        findings.append(
            Finding(
                Severity.WARNING, "sqlite_journal_mode",
                f"The journal mode is {mode}: readers and writers block each other.",
                    "Let the folder's owner open the file once, so that it can be switched to wal.")
        )  # fmt: skip
    if (size := _log_size(url.path)) > _LARGE_LOG:
        findings.append(
            Finding(
                Severity.WARNING,
                "sqlite_large_log",
                f"The write-ahead log has grown to {size // (1024 * 1024)} MB.",
                "Look for a program that keeps a read transaction on this file open.",
            )
        )
    if url.synchronous == "normal":
        findings.append(
            Finding(
                Severity.NOTE, "sqlite_synchronous",
                "synchronous is normal: a power failure may take the last commits.",
                    "Leave it if that is meant, else take synchronous=normal out of the URL.")
        )  # fmt: skip
    return findings


def _journal_mode(cursor: sqlite3.Cursor) -> str:
    return str(cursor.execute("PRAGMA journal_mode").fetchone()[0])


def _log_size(path: Path) -> int:
    try:
        return path.with_name(path.name + "-wal").stat().st_size
    except OSError:
        return 0


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the type of the file system of a path; empty if the system does not show it."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        _, folder, found, *_ = [*line.split(" "), "", "", ""]
        where = Path(folder.replace("\\040", " "))
        if path.is_relative_to(where) and len(where.parts) >= best:
            best, kind = len(where.parts), found
    return kind
