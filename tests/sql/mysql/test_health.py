"""The description of a MySQL or MariaDB server, and the findings of `doctor`."""

from __future__ import annotations

from contextlib import closing

import attrs
import pytest

from firelock import Firelock
from firelock.storage import Feature, Finding, SchemaState
from firelock_sql.mysql.connect import Product
from firelock_sql.mysql.health import Observed, describe, diagnose

HEALTHY = Observed(
    Product("MariaDB", (11, 8, 9), "11.8.9"),
    {
        "innodb_flush_log_at_trx_commit": "1",
        "innodb_doublewrite": "ON",
        "sync_binlog": "0",
        "log_bin": "OFF",
        "binlog_format": "MIXED",
        "max_allowed_packet": "16777216",
        "read_only": "OFF",
        "wsrep_on": "OFF",
    },
    SchemaState(1, 1),
    0,
    5,
    None,
)


def with_settings(**settings):
    """Return the same server with other settings."""
    return attrs.evolve(HEALTHY, settings={**HEALTHY.settings, **settings})


def test_healthy_server_has_no_findings():
    """A disabled binary log and a short history are not reported."""
    assert diagnose(HEALTHY) == []


@pytest.mark.parametrize(
    ("seen", "is_error", "what"),
    [
        (with_settings(innodb_flush_log_at_trx_commit="2"), False, "innodb_flush_log_at_trx_commit is 2"),
        (with_settings(log_bin="ON"), False, "sync_binlog is 0"),
        (with_settings(innodb_doublewrite="OFF"), False, "innodb_doublewrite is off"),
        (
            with_settings(log_bin="ON", sync_binlog="1", binlog_format="STATEMENT"),
            True,
            "binlog_format is STATEMENT",
        ),
        (with_settings(read_only="ON"), True, "read-only"),
        (with_settings(super_read_only="ON"), True, "read-only"),
        (with_settings(max_allowed_packet="1048576"), False, "max_allowed_packet is 1 MB"),
        (with_settings(wsrep_on="ON"), False, "Galera"),
        (attrs.evolve(HEALTHY, schema=SchemaState(0, 1)), False, "tables do not exist yet"),
        (attrs.evolve(HEALTHY, schema=SchemaState(1, 2)), True, "requires version 2"),
        (attrs.evolve(HEALTHY, schema=SchemaState(3, 2)), True, "newer than version 2"),
        (attrs.evolve(HEALTHY, clock_difference=3_000_000), False, "3.0 s ahead of"),
        (attrs.evolve(HEALTHY, clock_difference=-3_000_000), False, "3.0 s behind"),
        (attrs.evolve(HEALTHY, history_length=250_000), False, "250,000 old row versions"),
        (attrs.evolve(HEALTHY, longest=(61, 7)), False, "connection 7 has been open for 61 s"),
        (attrs.evolve(HEALTHY, product=Product("MySQL", (8, 4, 6), "8.4.6")), False, "MySQL 8.4.6"),
        (attrs.evolve(HEALTHY, product=Product("MariaDB", (10, 6, 1), "10.6.1")), False, "descending"),
    ],
)
def test_each_problem_is_a_finding(seen, is_error, what):
    """Each problem causes exactly one finding, which contains advice."""
    [found] = diagnose(seen)

    assert (found.is_error, what in found.what, bool(found.advice)) == (is_error, True, True)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("1", "on the server's disk"),
        ("2", "a power failure, but not a crash"),
        ("0", "a crash of the server may"),
    ],
)
def test_durability_describes_the_settings(level, expected):
    """The description states what would be lost, and in which case."""
    settings = {"innodb_flush_log_at_trx_commit": level}

    description = describe("mysql://here/jobs", HEALTHY.product, settings, "off")

    assert expected in description["durability"]


def test_mysql_is_described_as_untested():
    """The tests run on MariaDB, and users of MySQL should know this."""
    description = describe("mysql://here/jobs", Product("MySQL", (8, 4, 6), "8.4.6"), {}, "off")

    assert description["server"] == "MySQL 8.4.6; Firelock is tested on MariaDB only"


def test_description_of_the_server_is_complete(mariadb):
    """The description contains the version, the durability, and the fact that servers are not notified."""
    with closing(Firelock(mariadb.url())) as fire:
        description = fire.storage.describe()
        features = fire.storage.features

    program = mariadb.server.program
    name = {"mariadb": "MariaDB", "mysql": "MySQL"}[program.product]
    assert description["server"].split(";")[0] == f"{name} {'.'.join(map(str, program.version))}"
    assert ("tested on MariaDB only" in description["server"]) is (name == "MySQL")
    assert description["wake"].startswith("off: other processes find work by polling")
    assert "secret" not in str(description)
    assert Feature.NOTIFY not in features


def test_findings_reflect_the_settings_of_the_server(mariadb):
    """The findings are also available to a user without any server-wide privileges."""
    with closing(Firelock(mariadb.url())) as fire:
        fire.storage.migrate()
        found = fire.storage.diagnose()

    others = [one for one in found if "innodb_flush_log_at_trx_commit is 2" not in one.what]
    assert len(found) == len(others) + 1
    assert all("Firelock's tests run on MariaDB" in one.what for one in others)
    assert bool(others) is (mariadb.server.program.product == "mysql")
    assert all(isinstance(one, Finding) for one in found)
