"""Changes of many rows as one statement; MySQL's drivers would send one statement per row."""

from __future__ import annotations

from firelock_sql.mysql.pipeline import MultiStatementCursor, StatementSender

UPDATE = "UPDATE jobs SET state=%s, history=concat(jobs.history, %s) WHERE jobs.seq = %s"
DELETE = "DELETE FROM tags WHERE tags.tag = %s AND tags.job = %s"
INSERT = "INSERT INTO jobs (id) VALUES (%s)"


class Recorder:
    """A driver's cursor that records its statements and returns rows for every SELECT."""

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
    """Return a multi-statement cursor on the driver's cursor."""
    return MultiStatementCursor(StatementSender(driver, carries_several=carries_several))


def test_statement_size_is_bounded():
    """Long values and many rows are split, so that every statement fits into a packet. No row is lost."""
    driver = Recorder()
    rows = [("a", "x" * 100_000, seq) for seq in range(5)] + [("a", "", seq) for seq in range(5, 1_200)]

    cursor_on(driver).executemany(UPDATE, rows)

    sent = [value for _, values in driver.executed for value in values[2::3]]
    assert sent == list(range(1_200))
    assert max(len("".join(map(str, values))) for _, values in driver.executed) < 300_000
    assert max(len(values) for _, values in driver.executed) <= 1_500


def test_clause_for_existing_rows_follows_the_last_row():
    """The rows follow the keyword VALUES, and the clause about existing rows follows the last row."""
    driver = Recorder()
    cursor = cursor_on(driver)

    cursor.executemany(f"{INSERT} ON DUPLICATE KEY UPDATE id = VALUES(id)", [("a",), ("b",)])

    assert driver.executed == [
        ("INSERT INTO jobs (id) VALUES (%s), (%s) ON DUPLICATE KEY UPDATE id = VALUES(id)", ["a", "b"])
    ]


# ---- several statements in one round trip ----------------------------------------------------------------


def test_size_of_pending_statements_is_bounded():
    """Many long values are sent before the statement becomes too large for the server. No row is lost."""
    driver = Recorder()
    cursor = cursor_on(driver, carries_several=True)

    for number in range(12):
        cursor.put("UPDATE jobs SET result=%s WHERE seq=%s", ["x" * 100_000, number])
    cursor.send()

    assert [values[1::2] for _, values in driver.executed] == [
        [0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11],
    ]  # fmt: skip
