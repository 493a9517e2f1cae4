"""A field added in the middle of a job's records needs no change in the code that reads them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository.sources import ROOT

PACKAGES = ("core", "backend-sql", "backend-redis")
BEHIND = r"^    nominal_at: int \| None = None.*\n"
COLUMN = '    Column("nominal_at", BigInteger),\n'
ZONE = "zone: int | None"
# Additions to the stored fields and script arguments of Redis: the file, the lines before the new line
# (without their comments), and the new line
WORDS = [
    ("layout/encoding.py", "    nominal_at: int | None = None\n", f"    {ZONE} = None\n"),
    ("layout/words.py", "    state: str\n    queue: str\n    lowest: int\n", f"    {ZONE}\n"),
    ("verbs/insert.py", "            state=LETTERS[job.state],\n", '            zone="",\n'),
    ("layout/words.py", "    id: str\n    fence: Word\n    at: int\n", f"    {ZONE}\n"),
    ("verbs/changes.py", "        id=transition.job_id,\n", '        zone="",\n'),
    ("layout/words.py", "    lowest: int\n    due: Word\n", f"    {ZONE}\n"),
    ("verbs/insert.py", "    batch = NewBatch(\n", '        zone="",\n'),
]
PROGRAM = """
import sys
from firelock import Firelock, JobContext, Retry, State
from firelock.model.job import ClaimedJob, JobRecord, NewJob

assert all("zone" in made.__annotations__ for made in (ClaimedJob, JobRecord, NewJob))

fire = Firelock(sys.argv[1])

@fire.task(name="add", tags=["n:{number}"])
def add(job: JobContext, number: int) -> int:
    assert (job.tags, job.meta, job.priority) == ((f"n:{number}",), {"by": "test"}, 7), job
    return number + 1

@fire.task(name="fail", retry=Retry.never())
def fail() -> None:
    raise ValueError("told")

calls = add.using(meta={"by": "test"}, priority=7, timeout=30)
with fire.batch("both") as batch:
    members = [batch.add(calls, number) for number in (1, 2)]
jobs = [calls.enqueue(3), *calls.enqueue_many([(4,), (5,)]), *members]
later, failing = calls.schedule(3_600.0, 6), fail.enqueue()
with fire.server(workers=2):
    assert sorted(job.result(timeout=20) for job in jobs) == [2, 3, 4, 5, 6]
    try:
        failing.result(timeout=20)
    except Exception as error:
        assert "told" in str(error), error

record = jobs[0].refresh().record()
assert (record.state, record.tags, record.priority, record.meta, record.timeout_seconds) == (
    State.SUCCEEDED, ("n:3",), 7, {"by": "test"}, 30.0,
), record
assert (record.attempt, record.queue, record.result, record.error) == (1, "default", "4", None), record
record = failing.refresh().record()
assert (record.state, record.error.message, record.result) == (State.FAILED, "told", None), record
record = later.record()
assert (record.state, record.due_at, record.session) == (State.SCHEDULED, record.nominal_at, None), record
fire.close()
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of the packages with one more field in the middle of jobs and of Redis' formats."""
    folder = tmp_path_factory.mktemp("sources")
    for package in PACKAGES:
        source = Path(ROOT, "packages", package, "src")
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    job = folder / "core" / "firelock" / "model" / "job.py"
    text, changed = re.subn(
        BEHIND, r"\g<0>    zone: int | None = None\n", job.read_text(), flags=re.MULTILINE
    )
    assert changed == 3
    job.write_text(text)
    tables = folder / "backend-sql" / "firelock_sql" / "schema" / "tables.py"
    text = tables.read_text()
    assert text.count(COLUMN) == 1
    tables.write_text(text.replace(COLUMN, f'{COLUMN}    Column("zone", BigInteger),\n'))
    for name, lines, added in WORDS:
        file = folder / "backend-redis" / "firelock_redis" / name
        before = "".join(rf"{re.escape(line)}(?:  #.*)?\n" for line in lines.splitlines())
        text, changed = re.subn(f"^{before}", rf"\g<0>{added}", file.read_text(), flags=re.MULTILINE)
        assert changed == 1, lines
        file.write_text(text)
    return folder


def run(sources, folder, url):
    """Run the program with these sources."""
    path = os.pathsep.join(str(sources / package) for package in PACKAGES)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, url], cwd=folder, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
def test_added_field_of_a_job_needs_no_other_change(sources, tmp_path, storage):
    """Jobs of every kind are stored, run and read back with the added field."""
    url = "memory://" if storage == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}"

    ran = run(sources, tmp_path, url)

    assert ran.returncode == 0, ran.stderr


def test_redis_scripts_read_added_words_by_name(sources, tmp_path, server):
    """New words in the middle of the scripts' arguments and replies move the others, in Python and in Lua.

    If this fails: a script, or the Python code that reads its reply, counts positions itself.
    """
    ran = run(sources, tmp_path, server.url())

    assert ran.returncode == 0, ran.stderr


def test_postgresql_reads_rows_by_name(sources, tmp_path, postgresql):
    """The added column is in the middle of the table of jobs."""
    ran = run(sources, tmp_path, postgresql.url())

    assert ran.returncode == 0, ran.stderr


def test_mariadb_reads_rows_by_name(sources, tmp_path, mariadb):
    """The added column is in the middle of the table of jobs."""
    ran = run(sources, tmp_path, mariadb.url())

    assert ran.returncode == 0, ran.stderr
