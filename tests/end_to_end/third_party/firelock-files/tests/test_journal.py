"""What only this storage has to prove: what a crash, a full disk or another process does to its file."""

from __future__ import annotations

import resource
import subprocess
import sys
from contextlib import contextmanager

import pytest
from firelock_files import FileStorage

from firelock.storage import (
    JobFilter,
    NewJob,
    NewSession,
    SchemaMismatch,
    State,
    StorageError,
    StorageUnavailable,
)


@pytest.fixture
def open_storage(tmp_path):
    """Opens handles of one folder; all are closed in the end."""
    opened = []

    def open_one():
        opened.append(FileStorage(f"files://{tmp_path}/jobs"))
        return opened[-1]

    yield open_one
    for storage in opened:
        storage.close()


@pytest.fixture
def journal(tmp_path):
    """The path of the folder's journal."""
    return tmp_path / "jobs" / "journal"


def new_job(storage, text="[]"):
    """A job to be stored."""
    return NewJob(storage.new_id(), "tasks.run", text, "json", "default", 0, State.ENQUEUED, 1)


def insert(storage, text="[]"):
    """The id of a job that is stored now."""
    job = new_job(storage, text)
    storage.insert([job])
    return job.id


def stored(storage):
    """The ids of all jobs, oldest first."""
    return [job.id for job in storage.find(JobFilter(), limit=1_000, oldest_first=True).jobs]


@contextmanager
def room_for(size):
    """No file grows beyond this size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("torn", [b"0123", b'0badc0de [["jobs","x",null]]', b"\0" * 700 + b"\n"])
def test_what_a_crash_left_behind_is_cut_off(open_storage, journal, torn):
    """A last line that is not whole never happened; the next step takes its place."""
    first = insert(open_storage())
    with journal.open("ab") as file:
        file.write(torn)

    storage = open_storage()
    second = insert(storage)

    assert [first, second] == stored(storage) == stored(open_storage())


def test_damage_that_no_crash_leaves_is_told(open_storage, journal):
    """A broken line with others behind it is an error that says where it stands, and nothing is cut off."""
    storage = open_storage()
    insert(storage, '["first"]')
    insert(storage, '["second"]')
    journal.write_bytes(journal.read_bytes().replace(b"first", b"f1rst"))
    before = journal.read_bytes()

    with pytest.raises(StorageError, match="damaged at byte"):
        open_storage().counts()

    assert before == journal.read_bytes()


def test_a_newer_format_is_refused(open_storage, journal):
    """A journal of a later version is left alone."""
    open_storage().migrate()
    journal.write_bytes(journal.read_bytes().replace(b"firelock-files 1", b"firelock-files 2"))

    with pytest.raises(SchemaMismatch):
        open_storage().migrate()


def test_a_strange_file_is_refused(open_storage, journal):
    """A file that is no journal is left alone."""
    journal.parent.mkdir()
    journal.write_text("dear diary\n")

    with pytest.raises(StorageError, match="no journal"):
        open_storage().counts()


def test_a_full_disk_stores_nothing(open_storage, journal):
    """A step that does not fit is refused whole, and later ones go on from before it."""
    storage = open_storage()
    first = insert(storage)

    with room_for(journal.stat().st_size + 100), pytest.raises(StorageUnavailable):
        insert(storage)
    second = insert(storage)

    assert [first, second] == stored(storage) == stored(open_storage())


def test_the_journal_is_bounded(open_storage, journal):
    """However often things change, the file is not much longer than what is stored; others go on reading."""
    storage, reader = open_storage(), open_storage()
    text = "x" * 100_000
    longest = 0

    for number in range(60):
        storage.put_record("kind", "key", f"{number}{text}")
        longest = max(longest, journal.stat().st_size)

    assert longest < 2_000_000
    assert f"59{text}" == reader.get_record("kind", "key").value


def test_the_folder_is_made_once(open_storage, journal):
    """The first migration says what it made, the second has nothing to say."""
    made, again = open_storage().migrate(), open_storage().migrate()

    assert ([f"Made {journal}."], []) == (made, again)
    assert 0o700 == journal.parent.stat().st_mode & 0o777


@pytest.mark.parametrize(
    "url", ["files://", "files:///", "files://host/path", "files:///x?sync=no", "files:///x?sink=off"]
)
def test_a_url_without_a_folder_is_refused(url):
    """A URL that does not say what is meant is an error at once."""
    with pytest.raises(StorageError, match="files:///path"):
        FileStorage(url)


PROGRAM = """
import sys
from firelock.storage import NewJob, State
from firelock_files import FileStorage

storage, claimed = FileStorage(sys.argv[1]), 0
for _ in range(40):
    storage.insert([NewJob(storage.new_id(), "tasks.run", "[]", "json", "default", 0, State.ENQUEUED, 1)])
    claimed += len(storage.claim(None, 2, "session", 1).jobs)
print(claimed)
storage.close()
"""


def test_processes_exclude_each_other(open_storage, tmp_path):
    """Three processes that store and claim at once lose nothing and take nothing twice."""
    storage = open_storage()
    storage.begin_session(NewSession("session", "server", "host:1", "host", 1, 1, 3_600.0))
    command = [sys.executable, "-c", PROGRAM, storage.url]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]

    claimed = sum(int(process.communicate(timeout=60)[0]) for process in processes)

    rest = len(storage.claim(None, 1_000, "session", 1).jobs)
    assert (120, 120) == (claimed + rest, len(stored(storage)))
    assert {1} == {job.attempt for job in storage.get(stored(storage))}
