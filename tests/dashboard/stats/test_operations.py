"""The threads in which a dashboard runs operations."""

from __future__ import annotations

import threading


def test_close_waits_for_an_operation_that_is_starting(client, dashboard, fire, monkeypatch):
    """Closing waits until the operation's thread has started. An unstarted thread cannot be joined."""
    fire.task(name="send")(lambda: None)
    start, failures = threading.Thread.start, []

    def close():
        try:
            dashboard.close()
        except RuntimeError as error:
            failures.append(error)

    closing = threading.Thread(target=close, name="closing")

    def start_late(thread):
        if thread.name.startswith("firelock-operation-"):
            closing.start()
            closing.join(0.2)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_late)
    client.act("/api/operations", {"verb": "delete", "state": "enqueued"})
    closing.join(30)

    assert not closing.is_alive()
    assert [] == failures
