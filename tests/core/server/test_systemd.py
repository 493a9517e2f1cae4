"""The notifications that a server sends to a service manager."""

from __future__ import annotations

import os
import socket

import pytest

from firelock.server.systemd import SystemdNotifier


@pytest.fixture
def door(tmp_path):
    """The socket of a service manager: its path, and a function that returns the next notification."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(10)
        yield str(tmp_path / "notify"), lambda: listening.recv(100).decode()


def test_notification_removes_its_environment_variables(door):
    """The variables are removed because the programs that a job starts are not the service's main process."""
    path, receive = door
    environment = {
        "NOTIFY_SOCKET": path,
        "WATCHDOG_USEC": "3000000",
        "WATCHDOG_PID": str(os.getpid()),
        "A": "b",
    }

    manager = SystemdNotifier.of_environment(environment)
    manager.notify("READY=1")

    assert receive() == "READY=1"
    assert environment == {"A": "b"}


def test_watchdog_notification_is_due_after_a_third_of_its_time():
    """A notification is not due again until another third of the watchdog time has passed."""
    manager = SystemdNotifier.of_environment({"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "3000000"})

    assert [manager.is_due(at) for at in (10.0, 10.5, 11.0, 11.9, 12.0)] == [True, False, True, False, True]


@pytest.mark.parametrize(
    "environment", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}]
)
def test_no_watchdog_notification_is_due_without_a_watchdog(environment):
    """No notification is due if the time is missing or invalid, or if it is meant for another process."""
    assert not SystemdNotifier.of_environment(environment).is_due(100.0)


@pytest.mark.parametrize("path", ["/no/such/door", "@no-such-door", ""])
def test_unreachable_service_manager_is_ignored(path):
    """The server continues if the service manager is unreachable."""
    SystemdNotifier.of_environment({"NOTIFY_SOCKET": path}).notify("READY=1")


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has names of sockets in no folder")
def test_abstract_socket_is_supported():
    """The name of an abstract socket is written with an @."""
    name = f"firelock-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(10)

        SystemdNotifier.of_environment({"NOTIFY_SOCKET": f"@{name}"}).notify("STOPPING=1")

        assert listening.recv(100) == b"STOPPING=1"
