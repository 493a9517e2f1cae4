"""Changes of many rows as one statement, where MySQL's drivers would send one a row."""

from __future__ import annotations

from firelock_sql.mysql.pipeline import Courier, TogetherCursor

UPDATE = "UPDATE jobs SET state=%s, history=concat(jobs.history, %s) WHERE jobs.seq = %s"
DELETE = "DELETE FROM tags WHERE tags.tag = %s AND tags.job = %s"
INSERT = "INSERT INTO jobs (id) VALUES (%s)"


class Recorder:
    """A driver's cursor that notes what it is asked to do, and has rows for every SELECT."""

    rowcount = 3
    description = None

    def __init__(self):
        self.executed = []
        self.selects = []

    def execute(self, sql, parameters=None):
        self.executed.append((sql, list(parameters or [])))
        self.selects = [statement.startswith("SELECT") for statement in sql.split("; ")]
        self.nextset()

    def nextset(self):
        self.description = ("a column",) if self.selects.pop(0) else None

    def fetchall(self):
        return (("a",), ("b",))


def cursor_on(driver, *, carries_several=False):
    """The cursor above it."""
    return TogetherCursor(Courier(driver, carries_several=carries_several))


def test_updates_are_one_statement():
    """The rows are a table of their own, which leads: no other row of the changed table is looked at."""
    driver = Recorder()

    cursor_on(driver).executemany(UPDATE, [("a", "x", 1), ("b", "y", 2)])

    text = (
        "UPDATE (SELECT %s AS p0, %s AS p1, %s AS p2 UNION ALL SELECT %s, %s, %s) AS new"
        " STRAIGHT_JOIN jobs SET state=new.p0, history=concat(jobs.history, new.p1) WHERE jobs.seq = new.p2"
    )
    assert driver.executed == [(text, ["a", "x", 1, "b", "y", 2])]


def test_deletes_are_one_statement():
    """The table to delete from is named apart."""
    driver = Recorder()

    cursor_on(driver).executemany(DELETE, [("red", "a"), ("blue", "b")])

    text = (
        "DELETE tags FROM (SELECT %s AS p0, %s AS p1 UNION ALL SELECT %s, %s) AS new STRAIGHT_JOIN tags"
        " WHERE tags.tag = new.p0 AND tags.job = new.p1"
    )
    assert driver.executed == [(text, ["red", "a", "blue", "b"])]


def test_a_delete_of_a_list_is_joined_to_it():
    """None of the other rows is looked at, however few there are; the rows of all parts are counted."""
    driver = Recorder()
    cursor = cursor_on(driver)

    cursor.execute("DELETE FROM jobs WHERE jobs.id IN %s", [tuple(range(501))])

    first, second = driver.executed
    text = "DELETE jobs FROM (SELECT %s AS p0) AS new STRAIGHT_JOIN jobs WHERE jobs.id = new.p0"
    assert second == (text, [500])
    assert first[1] == list(range(500))
    assert cursor.rowcount == 6


def test_a_query_of_a_list_has_a_parameter_for_each_value():
    """Some drivers would write a list for one parameter, and aiomysql refuses it."""
    driver = Recorder()

    cursor_on(driver).execute(
        "SELECT id FROM jobs WHERE state = %s AND id IN %s AND queue IN %s", ["new", ("a", "b"), (None,)]
    )

    text = "SELECT id FROM jobs WHERE state = %s AND id IN (%s, %s) AND queue IN (%s)"
    assert driver.executed == [(text, ["new", "a", "b", None])]


def test_an_update_of_a_list_is_joined_to_it():
    """What is set comes behind the list then; conditions besides it stay."""
    driver = Recorder()

    cursor_on(driver).execute(
        "UPDATE jobs SET holder=%s WHERE jobs.seq IN %s AND jobs.held = 0", ["me", (7, 8)]
    )

    text = (
        "UPDATE (SELECT %s AS p0 UNION ALL SELECT %s) AS new STRAIGHT_JOIN jobs"
        " SET holder=%s WHERE jobs.seq = new.p0 AND jobs.held = 0"
    )
    assert driver.executed == [(text, [7, 8, "me"])]


def test_reading_a_list_is_not_joined_to_it():
    """A query locks along the index that it names."""
    driver = Recorder()

    cursor_on(driver).execute("SELECT 1 FROM jobs WHERE jobs.id IN %s", [("a",)])

    assert driver.executed == [("SELECT 1 FROM jobs WHERE jobs.id IN (%s)", ["a"])]


def test_inserts_list_their_rows():
    """The rows stand behind VALUES."""
    driver = Recorder()

    cursor_on(driver).executemany("INSERT INTO jobs (id, seq) VALUES (%s, 0)", [("a",), ("b",)])

    assert driver.executed == [("INSERT INTO jobs (id, seq) VALUES (%s, 0), (%s, 0)", ["a", "b"])]


def test_a_single_row_needs_no_joining():
    """Its statement stays as it is; a list in it is joined to, as by `execute`."""
    driver = Recorder()
    cursor = cursor_on(driver)

    cursor.executemany(UPDATE, [("a", "x", 1)])
    cursor.executemany("UPDATE jobs SET holder=%s WHERE jobs.seq IN %s", [("me", (7,))])

    text = "UPDATE (SELECT %s AS p0) AS new STRAIGHT_JOIN jobs SET holder=%s WHERE jobs.seq = new.p0"
    assert driver.executed == [(UPDATE, ["a", "x", 1]), (text, [7, "me"])]


def test_no_statement_grows_without_bound():
    """Long values and many rows are parted, so that every statement fits in a packet; none is lost."""
    driver = Recorder()
    rows = [("a", "x" * 100_000, seq) for seq in range(5)] + [("a", "", seq) for seq in range(5, 1_200)]

    cursor_on(driver).executemany(UPDATE, rows)

    sent = [value for _, values in driver.executed for value in values[2::3]]
    assert sent == list(range(1_200))
    assert max(len("".join(map(str, values))) for _, values in driver.executed) < 300_000
    assert max(len(values) for _, values in driver.executed) <= 1_500


def test_the_rows_of_the_last_statement_are_counted():
    """Those of one that was joined, then those that the driver counts."""
    cursor = cursor_on(Recorder())
    counted = []

    cursor.executemany(UPDATE, [("a", "x", seq) for seq in range(501)])
    counted.append(cursor.rowcount)
    cursor.executemany(UPDATE, [("a", "x", 1)])
    counted.append(cursor.rowcount)

    assert counted == [6, 3]


def test_rows_are_read_as_from_any_cursor():
    """One after the other, then those that are left, as a list."""
    cursor = cursor_on(Recorder())

    cursor.execute("SELECT id FROM jobs")

    assert (cursor.rowcount, cursor.fetchone(), cursor.fetchall()) == (3, ("a",), [("b",)])
    assert (cursor.fetchone(), cursor.fetchall()) == (None, [])


# ---- several in one round trip ---------------------------------------------------------------------------


def test_what_waits_goes_with_the_next_statement():
    """In its order; the answers are told apart."""
    driver = Recorder()
    cursor = cursor_on(driver, carries_several=True)
    begun = cursor.put("START TRANSACTION")
    cursor.executemany(INSERT, [("a",), ("b",)])
    assert driver.executed == []

    rows = cursor.each([("SELECT 1 FROM jobs WHERE seq = %s", [1]), ("SELECT 2", ())])

    text = (
        "START TRANSACTION; INSERT INTO jobs (id) VALUES (%s), (%s);"
        " SELECT 1 FROM jobs WHERE seq = %s; SELECT 2"
    )
    assert driver.executed == [(text, ["a", "b", 1])]
    assert rows == [[("a",), ("b",)], [("a",), ("b",)]]
    assert [(answer.rowcount, answer.rows) for answer in begun] == [(3, ())]


def test_who_asks_how_many_rows_were_changed_waits_for_the_answer():
    """Nothing can be told before the statement has run."""
    driver = Recorder()
    cursor = cursor_on(driver, carries_several=True)

    cursor.executemany(UPDATE, [("a", "x", 1), ("b", "y", 2)])

    assert not cursor.has_answered
    assert cursor.rowcount == 3
    assert cursor.has_answered
    assert len(driver.executed) == 1


def test_a_connection_of_one_statement_at_a_time_runs_each_at_once():
    """A caller's connection may not take several."""
    driver = Recorder()

    cursor_on(driver).each([("SELECT 1", ()), ("SELECT 2", ())])

    assert [sql for sql, _ in driver.executed] == ["SELECT 1", "SELECT 2"]


def test_what_is_dropped_is_not_run():
    """Of a transaction that is undone nothing comes later."""
    driver = Recorder()
    cursor = cursor_on(driver, carries_several=True)
    cursor.put("DELETE FROM jobs")

    cursor.drop()
    cursor.execute("ROLLBACK")

    assert driver.executed == [("ROLLBACK", [])]


def test_what_waits_is_bounded():
    """Many long values are sent before the statement is too large for the server; none is lost."""
    driver = Recorder()
    cursor = cursor_on(driver, carries_several=True)

    for number in range(12):
        cursor.put("UPDATE jobs SET result=%s WHERE seq=%s", ["x" * 100_000, number])
    cursor.send()

    assert [values[1::2] for _, values in driver.executed] == [
        [0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11],
    ]  # fmt: skip
