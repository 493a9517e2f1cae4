"""The meaning of the errors of MySQL's drivers, and the text that is shown for them."""

from __future__ import annotations

import asyncmy.errors
import pymysql
import pytest
from sqlalchemy.exc import OperationalError

from firelock_sql.connections.server_database import Meaning
from firelock_sql.mysql.connect import read_failure


@pytest.mark.parametrize(
    ("number", "meaning"),
    [
        (1213, Meaning.CONFLICT),
        (1205, Meaning.CONFLICT),
        (1062, Meaning.CONFLICT),
        (1020, Meaning.CONFLICT),
        (1412, Meaning.CONFLICT),
        (2006, Meaning.LOST),
        (2013, Meaning.LOST),
        (1053, Meaning.LOST),
        (1927, Meaning.LOST),
        (4031, Meaning.LOST),
        (1040, Meaning.PASSING),
        (1203, Meaning.PASSING),
        (1290, Meaning.PASSING),
        (2003, Meaning.PASSING),
        (1044, Meaning.LASTING),
        (1045, Meaning.LASTING),
        (1049, Meaning.LASTING),
        (1146, Meaning.LASTING),
        (1153, Meaning.LASTING),
        (1064, Meaning.LASTING),
    ],
)
def test_error_number_has_one_meaning(number, meaning):
    """The meaning determines whether to repeat a transaction, drop a connection, or let the caller retry."""
    failure = read_failure(pymysql.err.OperationalError(number, "said"))

    assert failure.meaning is meaning


def test_errors_of_asyncmy_are_classified_like_those_of_pymysql():
    """The error classes of the drivers are different, but both contain the error numbers of the server."""
    failure = read_failure(asyncmy.errors.OperationalError(1205, "Lock wait timeout exceeded"))

    assert (failure.meaning, failure.text) == (
        Meaning.CONFLICT, "Lock wait timeout exceeded (error 1205).",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "message", "hint"),
    [
        (1045, "Access denied for user 'a'@'b'", "the user name and password"),
        (1049, "Unknown database 'shop'", "create the database"),
        (1044, "Access denied for user 'a'@'b' to database 'shop'", "GRANT"),
        (1146, "Table 'shop.firelock_jobs' doesn't exist", "run firelock migrate"),
        (1290, "running with the --read-only option", "a replica"),
        (1040, "Too many connections", "increase max_connections"),
        (1153, "Got a packet bigger than 'max_allowed_packet' bytes", "increase max_allowed_packet"),
    ],
)
def test_failure_that_people_can_fix_has_a_hint(number, message, hint):
    """The hint follows the server's own message."""
    failure = read_failure(pymysql.err.OperationalError(number, message))

    assert failure.text.startswith(f"{message} (error {number}); ")
    assert hint in failure.text


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (1062, "Duplicate entry 'hunter2' for key 'id'"),
        (1366, "Incorrect string value: 'hunter2' for column 'result' at row 1"),
        (1064, "You have an error near 'hunter2' it's at line 1"),
        (1292, 'Truncated incorrect value: "hunter2"'),
    ],
)
def test_error_hides_values_of_the_statement(number, message):
    """A value in the server's message might be an argument of a job."""
    failure = read_failure(pymysql.err.DataError(number, message))

    assert "hunter2" not in failure.text


def test_closed_connection_is_classified_as_lost():
    """PyMySQL reports a closed connection without an error number from the server."""
    failure = read_failure(pymysql.err.InterfaceError(0, ""))

    assert (failure.meaning, failure.text) == (Meaning.LOST, "the connection is closed.")


def test_error_wrapped_by_the_engine_is_unwrapped():
    """The engine wraps errors of the first queries of a new connection, which SQLAlchemy itself sends."""
    own = pymysql.err.OperationalError(1040, "Too many connections")

    failure = read_failure(OperationalError("SELECT 1", {}, own))

    assert failure.meaning is Meaning.PASSING


def test_missing_package_for_a_password_is_named():
    """PyMySQL raises a RuntimeError if the package is missing."""
    failure = read_failure(RuntimeError("'cryptography' package is required for sha256_password"))

    assert (failure.meaning, "pymysql[rsa]" in failure.text) == (Meaning.LASTING, True)


@pytest.mark.parametrize("error", [ValueError("1213"), KeyError(1213), RuntimeError("else")])
def test_errors_of_other_code_are_not_translated(error):
    """Only exceptions of the driver are translated. Other exceptions are raised unchanged."""
    assert read_failure(error) is None


@pytest.mark.parametrize(
    ("message", "meaning", "is_reported"),
    [
        (
            "SAVEPOINT firelock does not exist",
            Meaning.PASSING,
            "a deadlock has rolled back the caller's whole",
        ),
        (
            "FUNCTION shop.MD5 does not exist",
            Meaning.LASTING,
            "FUNCTION shop.MD5 does not exist (error 1305).",
        ),
    ],
    ids=["savepoint", "function"],
)
def test_missing_object_is_a_deadlock_only_for_a_savepoint(message, meaning, is_reported):
    """A function that is missing in this version of the server stays missing, so retries would never end."""
    failure = read_failure(pymysql.err.OperationalError(1305, message))

    assert failure.meaning is meaning
    assert failure.text.startswith(is_reported)
