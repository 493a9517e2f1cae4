"""Across modules: stored settings and summaries keep the fields that a newer release has added."""

from __future__ import annotations

import json

import pytest

from firelock import Firelock
from firelock.integrations.webhooks.alerts import Memory


@pytest.fixture
def fire():
    """An app on a storage in memory."""
    with Firelock("memory://") as fire:
        yield fire


def test_pause_and_resume_keep_added_settings_of_a_queue(fire):
    """An older dashboard pauses a queue for which a newer release has stored more fields."""
    fire.storage.put_record("queue", "mail", json.dumps({"paused": False, "weight": 3}))

    fire.queues.pause("mail", note="provider is down")
    paused = json.loads(fire.storage.get_record("queue", "mail").value)
    fire.queues.resume("mail")

    assert (True, "provider is down", 3) == (paused["paused"], paused["note"], paused["weight"])
    assert {"paused": False, "weight": 3} == json.loads(fire.storage.get_record("queue", "mail").value)


def test_change_of_a_limit_keeps_its_added_settings(fire):
    """An older dashboard changes the values of a limit for which a newer release has stored more fields."""
    fire.storage.put_record("limit", "gpu", json.dumps({"concurrent": 2, "window": 9}))

    fire.limits.set("gpu", concurrent=4)
    fire.limits.pause("gpu")

    stored = json.loads(fire.storage.get_record("limit", "gpu").value)
    assert (4, True, 9) == (stored["concurrent"], stored["paused"], stored["window"])


def test_added_fields_of_open_alerts_are_kept():
    """Alerts that a newer release opened are kept, so they are not sent again."""
    text = json.dumps(
        {"checked_at": 7, "seen": {}, "open": {"failed a": {"since": 1, "new": 2}}, "more_of": 5}
    )

    memory = Memory.read(text)

    assert (7, 1) == (memory.checked_at, memory.open["failed a"].since)
    assert 5 == json.loads(memory.write())["more_of"]
