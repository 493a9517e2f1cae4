"""The sessions and how long they live."""

from __future__ import annotations

import attrs

from firelock.storage import NewSession, Renewal, SessionRecord, steps


class Sessions:
    """Every session by id; a dead one stays until it is pruned."""

    def __init__(self) -> None:
        self._records: dict[str, SessionRecord] = {}
        self._ended_at: dict[str, int] = {}

    def begin(self, session: NewSession, now: int) -> None:
        """See `Storage.begin_session`."""
        if session.id not in self._records:
            self._records[session.id] = steps.begun(session, now=now)

    def renew(self, renewal: Renewal, now: int) -> bool:
        """See `Storage.renew`."""
        record = self.living(renewal.session)
        if record is None:
            return False
        self._records[renewal.session] = steps.renewed(record, renewal, now=now)
        return True

    def living(self, id: str) -> SessionRecord | None:
        """Return the session, None where it is dead or unknown."""
        record = self._records.get(id)
        return record if record and record.is_alive else None

    def end(self, id: str, now: int) -> SessionRecord | None:
        """The session is dead for ever; return it, None where it was so before or is unknown."""
        record = self.living(id)
        if record is not None:
            self._records[id] = attrs.evolve(record, is_alive=False)
            self._ended_at[id] = now
        return record

    def expired(self, now: int) -> list[str]:
        """Return the ids of those that are not marked dead and have expired, the longest expired first."""
        expired = [one for one in self._records.values() if one.is_alive and one.expires_at <= now]
        return [one.session.id for one in sorted(expired, key=lambda one: one.expires_at)]

    def list(self) -> list[SessionRecord]:
        """Return all, oldest first."""
        return sorted(self._records.values(), key=lambda one: (one.session.started_at, one.session.id))

    def prune(self, ended_before: int) -> None:
        """Those that died before this instant are gone."""
        for id in [id for id, at in self._ended_at.items() if at < ended_before]:
            del self._records[id], self._ended_at[id]
