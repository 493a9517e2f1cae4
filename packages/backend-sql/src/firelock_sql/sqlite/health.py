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
    "full": "full: acknowledged data is on disk",
    "normal": "normal: only a power failure may lose the last commits",
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
    """Return a finding for each problem of this file, with its fix."""
    findings = []
    if sqlite3.sqlite_version_info < _SAFE_FROM:
        findings.append(
            Finding(
                Severity.NOTE,
                "sqlite_version",
                f"SQLite {sqlite3.sqlite_version} can, rarely, damage a database when it resets its log.",
                "Use a Python build with SQLite 3.51.3 or newer.",
            )
        )
    if (kind := file_system_of(url.path)).startswith(_REMOTE):
        findings.append(
            Finding(
                Severity.ERROR,
                "sqlite_network_file",
                f"{url.path} is on a network file system ({kind}), where SQLite's locks are not reliable.",
                "Move the file to a local disk, or use a database server such as PostgreSQL.",
            )
        )
    if (mode := _journal_mode(cursor)) != "wal":
        findings.append(
            Finding(
                Severity.WARNING, "sqlite_journal_mode",
                f"The journal mode is {mode}, so readers and writers block each other.",
                    "Open the file once as the folder's owner, so that SQLite can switch the mode to wal.")
        )  # fmt: skip
    if (size := _log_size(url.path)) > _LARGE_LOG:
        findings.append(
            Finding(
                Severity.WARNING,
                "sqlite_large_log",
                f"The write-ahead log has grown to {size // (1024 * 1024)} MB.",
                "Find the program that keeps a read transaction on this file open, and end the transaction.",
            )
        )
    if url.synchronous == "normal":
        findings.append(
            Finding(
                Severity.NOTE, "sqlite_synchronous",
                "synchronous is normal: a power failure may lose the last commits.",
                    "Remove synchronous=normal from the URL, unless this is intended.")
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
    """Return the type of the file system of a path; an empty string if it cannot be determined."""
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
