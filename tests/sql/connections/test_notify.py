"""Notifications between processes that share an SQLite file."""

from __future__ import annotations

import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from firelock.storage import ClaimRequest, Feature, State
from firelock.testing import Handles, Scene
from firelock.testing.conformance.scene import hands_back, requeues, succeeds
from firelock_sql.connections.notify import SocketMailbox, Wake
from firelock_sql.sqlite.storage import SqliteStorage


@pytest.fixture
def path():
    """A file whose folder of sockets has a short enough path; a test worker's own folders are too deep."""
    with tempfile.TemporaryDirectory(prefix="firelock-wake-") as folder:
        yield Path(folder) / "jobs.db"


@pytest.fixture
def scene(path):
    """A storage with helpers for jobs."""
    handles = Handles(lambda: SqliteStorage(f"sqlite:///{path}"))
    yield Scene(handles)
    handles.close()


@pytest.fixture
def holder(scene):
    """A session that claims jobs."""
    return scene.begin()


@pytest.fixture
def server(scene, holder):
    """Another handle of the storage, which listens and has received all notifications so far."""
    return listening(scene, holder, scene.handles.open())


def listening(scene, holder, storage, queues=None):
    """Return the handle after a claim that found nothing and a poll of its socket."""
    storage.claim(ClaimRequest(queues, 0, holder.session, scene.stamp()))
    storage.wait(queues, 0)
    return storage


def sockets(path):
    """Return the names of the sockets next to the file."""
    return sorted(one.name for one in Path(f"{path}.wake").iterdir())


@pytest.mark.parametrize("change", ["requeue", "hand back", "end of a session", "promote", "resume"])
def test_servers_are_notified_of_all_new_work(scene, holder, server, change):
    """Jobs can become claimable in several ways, and servers are notified in each case."""
    running = scene.run(holder)
    if change == "requeue":
        scene.settle(succeeds(running))
    if change == "promote":
        scene.schedule(-1)
    listening(scene, scene.begin("b"), server)

    match change:
        case "requeue":
            scene.settle(requeues(running.id))
        case "hand back":
            scene.settle(hands_back(running))
        case "end of a session":
            scene.storage.end_session(holder.session, None, reason="gone")
        case "promote":
            scene.storage.promote(10)
        case "resume":
            scene.storage.put_record("queue", "default", '{"paused": false}')

    assert server.wait(None, 10)


def test_full_socket_does_not_block_writers(scene, server):
    """If a server does not listen for a while, it does not delay the writers.

    It is notified when it listens again.
    """
    for _ in range(600):
        scene.add()

    assert server.wait(None, 10)
    assert {State.ENQUEUED: 600} == scene.storage.counts().by_state


def test_socket_of_a_dead_process_is_removed(scene, server, path):
    """If no process listens at a socket, the first process that detects this removes it."""
    abandoned = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    abandoned.bind(f"{path}.wake/dead.0")
    abandoned.close()
    before = sockets(path)

    scene.add()

    assert "dead.0" in before
    assert [name for name in before if name != "dead.0"] == sockets(path)


def test_concurrent_senders_share_one_socket(path, monkeypatch):
    """Two threads that send their first message concurrently create only one socket, so none is left open."""
    made, both = [], threading.Barrier(2)
    real = socket.socket

    def meeting(*args):
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # both threads get here only if both create a socket
        made.append(real(*args))
        return made[-1]

    receiver, sender = SocketMailbox(path), SocketMailbox(path)
    receiver.open()
    monkeypatch.setattr("firelock_sql.connections.notify.socket.socket", meeting)
    threads = [threading.Thread(target=sender.send, args=(b"default",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sender.close()
    sender.send(b"default")  # like a thread that sends after the close

    assert ([b"default"] * 2, [-1]) == (receiver.take(), [one.fileno() for one in made])
    receiver.close()


def test_closing_removes_the_socket(scene, server, path):
    """A process that closes its storage does not leave a socket behind."""
    before = sockets(path)

    server.close()

    assert (1, []) == (len(before), sockets(path))


class Observed(Wake):
    """The waiting threads of one process, observed by a test."""

    def __init__(self, path):
        self.asleep = threading.Semaphore(0)
        super().__init__(lambda: SocketMailbox(path))

    def sleep(self, seconds):
        """Report the wait, then sleep."""
        self.asleep.release()
        super().sleep(seconds)


def test_closing_ends_every_wait_without_an_error(path):
    """If a storage is closed while threads wait, they return, even if they have only just begun to wait."""
    answers = []
    for _ in range(20):
        wake = Observed(path)
        threads = [
            threading.Thread(target=lambda waiter=wake: answers.append(waiter.wait(None, 60)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert wake.asleep.acquire(timeout=30)

        wake.close()
        wake.close()

        for thread in threads:
            thread.join(30)
        assert not wake.wait(None, 60)
    assert [False] * 60 == answers
    assert [] == sockets(path)


def test_socket_folder_is_private_to_its_owner(server, path):
    """Other users must not be able to read queue names or create sockets."""
    assert 0o700 == Path(f"{path}.wake").stat().st_mode & 0o777


def test_socket_folder_open_to_other_users_is_not_used(scene, holder, path):
    """Servers poll instead, and the description of the storage explains why."""
    Path(f"{path}.wake").mkdir(mode=0o777)
    Path(f"{path}.wake").chmod(0o777)
    server = listening(scene, holder, scene.handles.open())

    scene.add()

    assert not server.wait(None, 0)
    assert "polling" in server.describe()["wake"]
    assert [] == sockets(path)


@pytest.fixture
def short_folder(monkeypatch):
    """A temporary folder for this test, with the shortest possible path."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield folder


def test_long_socket_path_moves_to_the_temporary_folder(tmp_path, short_folder):
    """The address of a socket must be short. Two processes still use the same folder."""
    database = tmp_path / ("long" * 30) / "jobs.db"
    receiver, sender = SocketMailbox(database), SocketMailbox(database)
    receiver.open()

    sender.send(b"default")

    assert [b"default"] == receiver.take()
    assert short_folder in receiver.describe()
    for mailbox in (receiver, sender):
        mailbox.close()


def test_long_socket_path_without_a_temporary_folder_causes_polling(tmp_path, monkeypatch):
    """If only the database's folder is writable, the description states that servers find work by polling.

    No call fails.
    """

    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    mailbox = SocketMailbox(tmp_path / ("long" * 20) / "jobs.db")
    mailbox._folder.parent.mkdir()  # noqa: SLF001 - as the database's folder

    mailbox.open()
    mailbox.send(b"work")

    assert not mailbox.is_open
    assert "servers find work by polling" in mailbox.describe()
    mailbox.close()


def test_disabled_notifications_are_not_offered(path):
    """The features and the description show that `wake=off` is set, and no folder is created."""
    storage = SqliteStorage(f"sqlite:///{path}?wake=off")

    answer = storage.wait(None, 0)

    assert not answer
    assert Feature.NOTIFY not in storage.features
    assert storage.describe()["wake"].startswith("off")
    assert not Path(f"{path}.wake").exists()
    storage.close()
