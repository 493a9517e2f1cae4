"""The URL of an SQLite storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from firelock import ConfigurationError
from firelock_sql.connections.url import SqliteUrl, parse_sqlite_url


def test_relative_path_is_resolved_once(tmp_path, monkeypatch):
    """The path is relative to the current folder at the time when the storage was opened."""
    monkeypatch.chdir(tmp_path)

    url = parse_sqlite_url("sqlite:///jobs.db")

    assert tmp_path / "jobs.db" == url.path
    assert f"sqlite:///{tmp_path}/jobs.db" == str(url)


def test_absolute_path_has_four_slashes():
    """SQLAlchemy uses the same format."""
    assert Path("/var/lib/jobs.db") == parse_sqlite_url("sqlite:////var/lib/jobs.db").path


def test_percent_escapes_are_decoded_in_paths():
    """A file name can contain spaces or question marks. The URL is shown with the same escapes."""
    url = parse_sqlite_url("sqlite:////tmp/my%20jobs%3F.db")

    assert Path("/tmp/my jobs?.db") == url.path
    assert url == parse_sqlite_url(str(url))


def test_every_url_option_is_read_and_shown():
    """Options that differ from their default values are shown after the path."""
    text = "sqlite:////tmp/jobs.db?synchronous=normal&busy_timeout=2.5&wake=off"

    url = parse_sqlite_url(text)

    assert SqliteUrl(Path("/tmp/jobs.db"), "normal", 2.5, False) == url
    assert text == str(url)


def test_full_durability_is_the_default():
    """By default, a write is on the disk when it is acknowledged."""
    url = parse_sqlite_url("sqlite:////tmp/jobs.db")

    assert ("full", 15.0, True) == (url.synchronous, url.busy_timeout_seconds, url.is_waking)


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///%00", "sqlite:///file?mode=memory"],
)
def test_database_in_memory_is_refused_with_a_hint(url):
    """A SQLite database in memory belongs to one connection, so the error suggests `memory://`."""
    with pytest.raises(ConfigurationError, match="memory://"):
        parse_sqlite_url(url)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("sqlite:////tmp/a.db?sync=full", "'sync'"),
        ("sqlite:////tmp/a.db?synchronous=off", "full or normal"),
        ("sqlite:////tmp/a.db?wake=maybe", "on or off"),
        ("sqlite:////tmp/a.db?busy_timeout=soon", "'soon'"),
        ("sqlite:////tmp/a.db?busy_timeout=-1", "'-1'"),
        ("sqlite:////tmp/a.db?busy_timeout=nan", "'nan'"),
        ("sqlite://host/a.db", "contains a host"),
        ("sqlite:////tmp/a.db#x", "%23"),
    ],
)
def test_invalid_url_is_refused(url, named):
    """A misspelled option is refused instead of being ignored."""
    with pytest.raises(ConfigurationError, match=named):
        parse_sqlite_url(url)
