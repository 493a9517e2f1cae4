"""Across modules: a server that stalls or is cut off in a transaction does not block others for long."""

from __future__ import annotations

import threading
from contextlib import closing

from firelock.plugins.loader import open_storage
from tests.scenes import scene_at

TOUCH = "UPDATE firelock_sessions SET busy = busy + 1"


def test_jobs_of_a_stopped_server_are_returned(server_database):
    """The database ends transactions that are idle for ten seconds, so other servers can end the session."""
    url = server_database.url()
    with scene_at(url) as scene:
        holder = scene.begin()
        job = scene.run(holder)
        stands_still, continues = threading.Event(), threading.Event()
        errors = []

        def renew(tx):
            tx.cursor.execute(TOUCH)
            stands_still.set()
            continues.wait(60)

        def stand_still():
            with closing(open_storage(url)) as storage:
                try:
                    storage._database.write(renew)  # noqa: SLF001 - to stop between two statements
                except Exception as error:  # noqa: BLE001 - checked below
                    errors.append(type(error).__name__)

        paused = threading.Thread(target=stand_still)
        paused.start()
        try:
            assert stands_still.wait(30)
            taken = scene.storage.end_session(holder.session, None, reason="lost")
        finally:
            continues.set()
            paused.join()

        assert [job.id] == list(taken.crashed)
        assert ["StorageUnavailable"] == errors
