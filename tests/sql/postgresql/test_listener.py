"""Wake-ups with LISTEN and NOTIFY: their receivers, their rate, and the effects of a lost connection."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import create_engine

from firelock.storage import ClaimRequest, Feature
from firelock.testing import eventually
from firelock_sql.connections.pool import EnginePool
from firelock_sql.postgresql.connect import ConnectionPath, dialect_of
from firelock_sql.postgresql.listener import (
    GAP_SECONDS,
    Channel,
    ChannelMailbox,
    Coalescing,
    Sender,
    channel_name,
    flush,
)
from firelock_sql.postgresql.storage import open_url
from firelock_sql.schema.names import Names
from tests.scenes import listening, scene_at

LISTENERS = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND query LIKE 'LISTEN%%' ORDER BY pid"


@pytest.fixture
def scene(postgresql):
    """A storage with helpers for jobs."""
    with scene_at(postgresql.url()) as scene:
        yield scene


@pytest.fixture
def server(scene):
    """Another handle of the storage, which listens and has received all notifications so far."""
    return listening(scene.handles.open())


def listeners(admin):
    """Return the process ids of the connections that listen for this database's handles."""
    return [pid for (pid,) in admin.execute(LISTENERS, [admin.info.dbname]).fetchall()]


# ---- receivers -------------------------------------------------------------------------------------------


def test_process_does_not_receive_its_own_notifications(scene, postgresql, open_mailbox):
    """A server that enqueues a job has already notified its own threads.

    The message is for other processes.
    """
    scene.add()  # so that the tables exist
    one, other = open_mailbox(), open_mailbox()

    with psycopg.connect(postgresql.url(), autocommit=True) as listener:
        listener.execute('LISTEN "public.firelock_wake"')
        one.send(b"own")
        list(listener.notifies(timeout=30, stop_after=1))  # so it was sent before the next one
        other.send(b"other")
        list(listener.notifies(timeout=30, stop_after=1))

    assert [b"other"] == eventually(one.take)


def test_forked_process_does_not_send_pending_messages():
    """When a child process ends, it must not send messages that its parent has not sent yet."""
    sent, may_send = [], threading.Event()

    def post(message):
        may_send.wait(30)
        sent.append(message)

    sender = Sender(post)
    sender.add(["a"])
    sender.add(["b"])

    child = os.fork()
    if child == 0:
        sender.leave_behind()
        flush()
        os._exit(len(sent))
    _, status = os.waitpid(child, 0)
    may_send.set()
    sender.close()

    assert 0 == os.waitstatus_to_exitcode(status)
    assert "ab" == "".join(sorted("".join(sent).replace("\n", "")))


@pytest.fixture
def open_mailbox(postgresql):
    """A function that opens a mailbox, as if in another process, and waits until it listens."""
    opened = []

    def open_one():
        connections = EnginePool("here", lambda: create_engine(postgresql.engine_url()), is_own=False)
        path, names = ConnectionPath("here"), Names()
        connections.set_up = path.set_up
        channel = Channel(connections, names, dialect_of("psycopg", names), path, is_forced=False)
        mailbox = ChannelMailbox(channel)
        opened.append((mailbox, connections))
        mailbox.take()  # as a claim does; then the first connection counts as a message
        mailbox.open()
        while mailbox.take() != [b"*"]:
            mailbox.listen(30)
        return mailbox

    yield open_one
    for mailbox, connections in opened:
        mailbox.close()
        connections.engine.dispose()


def test_notification_without_a_queue_wakes_all_servers(scene, server, admin):
    """A program in another language can store jobs and send notifications.

    A message without a queue applies to all queues.
    """
    server.wait(["default"], 0)  # the process waits for "default" from now on, and for "mail" as well
    server.wait(["mail"], 0)
    admin.execute("NOTIFY \"public.firelock_wake\", 'default'")
    first = server.wait(["default"], 30)
    admin.execute('NOTIFY "public.firelock_wake"')

    assert (True, True) == (first, server.wait(["mail"], 30))


def test_notifications_of_another_prefix_wake_no_server(scene, server, postgresql):
    """Each app that shares a database has its own channel."""
    other = open_url(postgresql.url("prefix=other_"))
    listener = listening(open_url(postgresql.url("prefix=other_")))
    try:
        other.insert([scene.new_job()])

        assert listener.wait(None, 30)
        assert not server.wait(None, 0)
    finally:
        other.close()
        listener.close()


def test_same_schema_uses_the_same_channel(scene, server, postgresql):
    """The channel is the same whether the search path or the URL determines the schema."""
    named = open_url(postgresql.url("schema=public"))
    try:
        named.insert([scene.new_job()])

        assert server.wait(None, 30)
    finally:
        named.close()


def test_channel_names_fit_the_length_limit():
    """The server would truncate longer names, so two of them could become the same."""
    long, other = channel_name("s" * 40, "p" * 39 + "_"), channel_name("t" * 40, "p" * 39 + "_")

    assert "public.firelock_wake" == channel_name("public", "firelock_")
    assert long != other
    assert max(len(long), len(other)) <= 63


# ---- rate ------------------------------------------------------------------------------------------------


def test_burst_sends_its_first_and_last_message():
    """Between the first and the last message, one message is sent per interval."""
    line = Coalescing()
    line.add(["a"])
    first = line.take(0.0)
    sent = []
    for tenth in range(1, 25):
        line.add(["a"])
        if line.take(tenth * GAP_SECONDS / 10):
            sent.append(tenth)
    pause = line.pause(2.4 * GAP_SECONDS)
    rest = line.take(4 * GAP_SECONDS)

    assert ["a"] == first
    assert [10, 20] == sent
    assert pytest.approx(0.6 * GAP_SECONDS) == pause
    assert ["a"] == rest
    assert line.pause(5 * GAP_SECONDS) is None


def test_burst_of_enqueues_sends_few_notifications(scene, postgresql):
    """One message is sent per interval and queue, for any number of enqueued jobs.

    The last message is not lost.
    """
    with psycopg.connect(postgresql.url(), autocommit=True) as listener:
        listener.execute('LISTEN "public.firelock_wake"')
        began = time.monotonic()
        for _ in range(200):
            scene.add()
        scene.storage.close()
        took = time.monotonic() - began

        received = list(listener.notifies(timeout=0))

    assert 1 <= len(received) <= 2 + took / GAP_SECONDS
    assert {"default"} == {notification.payload.partition("\n")[2] for notification in received}


def test_closing_sends_pending_notifications(our_threads):
    """If a script enqueues jobs and ends, servers do not have to wait until they poll again."""
    sent = []
    sender = Sender(sent.append)
    sender.add(["a"])
    eventually(lambda: sent)
    sender.add(["a", "b"])

    sender.close()
    sender.add(["c"])

    assert ["a", "b"] == sorted("\n".join(sent).split("\n"))[-2:]
    assert "c" not in "".join(sent)
    assert [] == our_threads("firelock-notify")


def test_script_that_exits_without_closing_sends_its_notification(postgresql, scene):
    """The last notification of the script is sent at exit, unless the process is killed."""
    with psycopg.connect(postgresql.url(), autocommit=True) as listener:
        listener.execute('LISTEN "public.firelock_wake"')
        subprocess.run([sys.executable, "-c", _SCRIPT, postgresql.url()], check=True, timeout=60)

        received = [notification.payload for notification in listener.notifies(timeout=30, stop_after=1)]

    assert ["last"] == [payload.partition("\n")[2] for payload in received]


_SCRIPT = """
import sys
from firelock import Firelock

fire = Firelock(sys.argv[1])


@fire.task(name="task", queue="last")
def task() -> None: ...


task.enqueue()
"""


# ---- failures --------------------------------------------------------------------------------------------


def test_failing_notification_does_not_fail_the_enqueue(caplog):
    """The job is stored and is found by polling. One warning is logged."""
    tries = []

    def fail(message):
        tries.append(message)
        raise psycopg.OperationalError("secret of the connection")

    sender = Sender(fail)
    with caplog.at_level(logging.WARNING):
        sender.add(["a"])
        eventually(lambda: tries)
        sender.add(["b"])
        sender.close()

    assert ["a", "b"] == tries
    assert ["Could not notify servers of work (OperationalError); they will find it by polling."] == [
        record.getMessage() for record in caplog.records
    ]


def test_lost_listening_connection_is_replaced(scene, server, admin):
    """The missed messages count as one message. Later notifications arrive as before."""
    (before,) = listeners(admin)
    admin.execute("SELECT pg_terminate_backend(%s)", [before])

    is_notified = server.wait(None, 30)
    (after,) = eventually(lambda: listeners(admin))
    scene.add()

    assert is_notified
    assert before != after
    assert server.wait(None, 30)


def test_all_waiting_threads_share_one_connection(scene, server, admin):
    """The process has one connection for messages, however many of its threads wait."""
    threads = [threading.Thread(target=server.wait, args=(None, 600), daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        scene.add()
        for thread in threads:
            thread.join(0.05)

    assert 1 == len(listeners(admin))


def test_storage_listens_from_its_first_wait(scene, admin):
    """A client that only enqueues jobs does not need messages, so it does not open a connection for them."""
    scene.add()
    before = listeners(admin)
    server = listening(scene.handles.open())
    meanwhile = listeners(admin)

    server.close()

    assert (0, 1) == (len(before), len(meanwhile))
    eventually(lambda: not listeners(admin))


def test_forked_process_opens_its_own_listening_connection(scene, server, admin):
    """The parent's connection is not used by the child process, and still works after the child has ended."""
    child = os.fork()
    if child == 0:
        try:
            server.claim(ClaimRequest(None, 0, "nobody", 0))
            is_notified = server.wait(None, 30) and server.counts().by_state == {}
            server.close()
        finally:
            os._exit(0 if is_notified else 1)
    _, status = os.waitpid(child, 0)
    scene.add()

    assert 0 == os.waitstatus_to_exitcode(status)
    assert server.wait(None, 30)
    eventually(lambda: len(listeners(admin)) == 1)


# ---- configuration ---------------------------------------------------------------------------------------


def test_listening_can_be_turned_off(postgresql, admin):
    """The features and the description show that `listen=off` is set. Nothing is sent or received."""
    storage = open_url(postgresql.url("listen=off"))

    assert not storage.wait(None, 0)
    assert Feature.NOTIFY not in storage.features
    assert storage.describe()["wake"].startswith("off")
    assert [] == listeners(admin)
    storage.close()


def test_failing_listening_connection_is_reported(open_mailbox, postgresql, admin):
    """A mailbox tries to connect again.

    Until it succeeds, work is found by polling, and an enqueue does not wait.
    """
    mailbox = open_mailbox()
    name = sql.Identifier(postgresql.name)
    admin.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 0").format(name))
    try:
        admin.execute("SELECT pg_terminate_backend(%s)", listeners(admin))
        arrived = []
        while "not connected (OperationalError)" not in mailbox.describe():
            mailbox.listen(30)
            arrived += mailbox.take()
    finally:
        admin.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT -1").format(name))

    def again():
        mailbox.listen(1)
        return mailbox.take()

    assert [] == arrived
    assert [b"*"] == eventually(again, within=30)
    assert "NOTIFY, one connection per process" == mailbox.describe()
