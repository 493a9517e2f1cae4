"""Changes of many rows as one statement, where MySQL's drivers would send one a row."""

from __future__ import annotations

from firelock_sql.mysql.together import TogetherCursor

UPDATE = "UPDATE jobs SET state=%s, history=concat(jobs.history, %s) WHERE jobs.seq = %s"
DELETE = "DELETE FROM tags WHERE tags.tag = %s AND tags.job = %s"
INSERT = "INSERT INTO jobs (id) VALUES (%s)"


class Recorder:
    """A driver's cursor that notes what it is asked to do."""

    rowcount = 3

    def __init__(self):
        self.executed = []
        self.many = []

    def execute(self, sql, parameters=()):
        self.executed.append((sql, list(parameters)))

    def executemany(self, sql, rows):
        self.many.append((sql, rows))

    def fetchone(self):
        return None

    def fetchall(self):
        return ()


def test_updates_are_one_statement():
    """The rows are a table of their own, which leads: no other row of the changed table is looked at."""
    driver = Recorder()

    TogetherCursor(driver).executemany(UPDATE, [("a", "x", 1), ("b", "y", 2)])

    text = (
        "UPDATE (SELECT %s AS p0, %s AS p1, %s AS p2 UNION ALL SELECT %s, %s, %s) AS new"
        " STRAIGHT_JOIN jobs SET state=new.p0, history=concat(jobs.history, new.p1) WHERE jobs.seq = new.p2"
    )
    assert driver.executed == [(text, ["a", "x", 1, "b", "y", 2])]


def test_deletes_are_one_statement():
    """The table to delete from is named apart."""
    driver = Recorder()

    TogetherCursor(driver).executemany(DELETE, [("red", "a"), ("blue", "b")])

    text = (
        "DELETE tags FROM (SELECT %s AS p0, %s AS p1 UNION ALL SELECT %s, %s) AS new STRAIGHT_JOIN tags"
        " WHERE tags.tag = new.p0 AND tags.job = new.p1"
    )
    assert driver.executed == [(text, ["red", "a", "blue", "b"])]


def test_a_delete_of_a_list_is_joined_to_it():
    """None of the other rows is looked at, however few there are; the rows of all parts are counted."""
    driver = Recorder()
    cursor = TogetherCursor(driver)

    cursor.execute("DELETE FROM jobs WHERE jobs.id IN %s", [tuple(range(501))])

    first, second = driver.executed
    text = "DELETE jobs FROM (SELECT %s AS p0) AS new STRAIGHT_JOIN jobs WHERE jobs.id = new.p0"
    assert second == (text, [500])
    assert first[1] == list(range(500))
    assert cursor.rowcount == 6


def test_a_query_of_a_list_has_a_parameter_for_each_value():
    """Some drivers would write a list for one parameter, and aiomysql refuses it."""
    driver = Recorder()

    TogetherCursor(driver).execute(
        "SELECT id FROM jobs WHERE state = %s AND id IN %s AND queue IN %s", ["new", ("a", "b"), (None,)]
    )

    text = "SELECT id FROM jobs WHERE state = %s AND id IN (%s, %s) AND queue IN (%s)"
    assert driver.executed == [(text, ["new", "a", "b", None])]


def test_an_update_of_a_list_is_joined_to_it():
    """What is set comes behind the list then; conditions besides it stay."""
    driver = Recorder()

    TogetherCursor(driver).execute(
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

    TogetherCursor(driver).execute("SELECT 1 FROM jobs WHERE jobs.id IN %s", [("a",)])

    assert driver.executed == [("SELECT 1 FROM jobs WHERE jobs.id IN (%s)", ["a"])]


def test_inserts_and_single_rows_are_left_to_the_driver():
    """It joins the rows of an INSERT by itself, and one row needs no joining."""
    driver = Recorder()
    cursor = TogetherCursor(driver)

    cursor.executemany(INSERT, [("a",), ("b",)])
    cursor.executemany(UPDATE, [("a", "x", 1)])

    assert driver.many == [(INSERT, [("a",), ("b",)]), (UPDATE, [("a", "x", 1)])]
    assert driver.executed == []


def test_no_statement_grows_without_bound():
    """Long values and many rows are parted, so that every statement fits in a packet; none is lost."""
    driver = Recorder()
    rows = [("a", "x" * 100_000, seq) for seq in range(5)] + [("a", "", seq) for seq in range(5, 1_200)]

    TogetherCursor(driver).executemany(UPDATE, rows)

    sent = [value for _, values in driver.executed for value in values[2::3]]
    assert sent == list(range(1_200))
    assert max(len("".join(map(str, values))) for _, values in driver.executed) < 300_000
    assert max(len(values) for _, values in driver.executed) <= 1_500


def test_the_rows_of_the_last_statement_are_counted():
    """Those of one that was joined, then those that the driver counts."""
    cursor = TogetherCursor(Recorder())
    counted = []

    cursor.executemany(UPDATE, [("a", "x", seq) for seq in range(501)])
    counted.append(cursor.rowcount)
    cursor.executemany(UPDATE, [("a", "x", 1)])
    counted.append(cursor.rowcount)

    assert counted == [6, 3]


def test_a_cursor_is_the_drivers_in_all_else():
    """Rows are a list, as of every other driver."""
    cursor = TogetherCursor(Recorder())

    assert (cursor.rowcount, cursor.fetchall(), cursor.fetchone()) == (3, [], None)
