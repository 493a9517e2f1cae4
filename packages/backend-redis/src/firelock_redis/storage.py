"""`RedisStorage`: the verbs that run for every job, with one script each. Base classes have the others.

To settle a succeeded job without special features, this process sends two strings: the first line of the
job's record, as the claim returned it, and the new record. If the stored first line is unchanged, the session
still holds the job. So the script needs only a comparison and a write, and does not parse the record. If the
first line has changed, the script reports this without writing anything. The change is then sent field by
field, like all other changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
from typing_extensions import override

from firelock.limits import lane_of
from firelock.storage import (
    Applied,
    Claim,
    ClaimedJob,
    ClaimRequest,
    ErrorInfo,
    Exchange,
    Feature,
    SchemaState,
    State,
    StorageError,
    StorageUnavailable,
    Taken,
    Transition,
    is_damaged,
    read_admission,
)
from firelock_redis.connections.database import LAYOUT, RedisDatabase
from firelock_redis.connections.health import HealthVerbs
from firelock_redis.connections.notify import RedisWaiting
from firelock_redis.layout.encoding import APPLIED_BY_DIGIT, claim_of, claimed_job, flags_of, task_head
from firelock_redis.layout.partitions import EVERYWHERE
from firelock_redis.layout.words import Claimed, ExchangeClaim, ExchangeReply, Group, LaneEnds
from firelock_redis.verbs.changes import ClaimedRecord, write_changes
from firelock_redis.verbs.find import FindVerbs
from firelock_redis.verbs.insert import InsertVerbs
from firelock_redis.verbs.limits import LimitVerbs
from firelock_redis.verbs.locks import LockVerbs
from firelock_redis.verbs.logs import LogVerbs
from firelock_redis.verbs.memos import MemoVerbs
from firelock_redis.verbs.moves import MoveVerbs
from firelock_redis.verbs.records import RecordVerbs
from firelock_redis.verbs.sessions import SessionVerbs
from firelock_redis.verbs.upkeep import UpkeepVerbs, earliest_due_at

_APPLIED, _LOOK_CLOSER = "0", "?"
_LOST = "1"
_NO_CLAIM = ExchangeClaim(session="", now=0, limit=-1, queues=0)
_ABOUT, _OF_EACH = len(ExchangeReply._fields), len(Claimed._fields)

_Freed: TypeAlias = dict[tuple[str, str], list[str]]
"""The ids of jobs that have ended, by queue and lane."""


class RedisStorage(
    HealthVerbs,  # describe, diagnose
    InsertVerbs,  # insert
    MoveVerbs,  # move
    MemoVerbs,  # remember, recall, batch_counts, append_stream, read_stream
    LimitVerbs,  # spend, find_keys, find_waiting, find_unique
    SessionVerbs,  # begin_session, renew, reconcile, end_session, orphans, list_sessions, oldest_session
    UpkeepVerbs,  # promote, release, prune; record_metrics, timeline
    FindVerbs,  # get, find, history, counts, failure_groups
    LogVerbs,  # append_logs, read_log
    LockVerbs,  # acquire_lock, renew_lock, release_lock
    RecordVerbs,  # put_record, get_record, list_records, due_records, delete_record
):
    """A storage in Redis or Valkey: one server, a primary with Sentinels, or a cluster."""

    contract = 1
    features = frozenset({Feature.NOTIFY, Feature.SHARED, Feature.DURABLE, Feature.LIMITS, Feature.UNIQUE})

    def __init__(self, database: RedisDatabase) -> None:
        super().__init__(database)
        self.url = str(database.url)
        self.connect_url = database.url.text
        self._waiting = self._polls = RedisWaiting(database, self._turns.note)
        # The jobs that this process has claimed, by session and id, each with its record without the last
        # line. Each change of a job removes the entry of this job. So if the reply is lost, the change is
        # sent again field by field.
        self._claimed_jobs: dict[str, dict[str, ClaimedRecord]] = {}

    # ---- opening and closing -----------------------------------------------------------------------------

    @property
    def clock_offset(self) -> int:
        """The number of microseconds that are added to the server's clock."""
        return self.database.clock_offset

    @clock_offset.setter
    def clock_offset(self, offset: int) -> None:
        self.database.clock_offset = offset

    @override
    def migrate(self) -> list[str]:
        found = self.schema().found
        self.database.prepare()
        return [] if found else [f"Created layout {LAYOUT} for prefix {self.database.url.prefix!r}."]

    @override
    def schema(self) -> SchemaState:
        version, _ = self.database.layout(is_written=False)
        return SchemaState(version, LAYOUT)

    @override
    def clear(self) -> None:
        self.database.clear()
        self.forget_held()
        self._turns.note(EVERYWHERE)

    @override
    def close(self) -> None:
        self._waiting.close()
        self.database.close()

    @override
    def clock(self) -> int:
        return int(self._run("prefix.clock", 0))

    @override
    def new_ids(self, count: int, colocate_with: str | Sequence[str | None] | None = None) -> list[str]:
        return self._partitions.new_ids(count, colocate_with)

    # ---- hot path ----------------------------------------------------------------------------------------

    @override
    def claim(self, request: ClaimRequest) -> Claim:
        """See `Storage.claim`. This takes one round trip, or one for each partition that might have work."""
        return self.exchange([], request).claim

    @override
    def apply(self, transitions: Sequence[Transition], *, within: object | None = None) -> list[Applied]:
        """See `Storage.apply`. This takes one round trip per partition.

        An unreachable partition does not prevent changes in the other partitions.
        """
        self.refuse_within(within)
        if self._partitions.number == 1:
            return self._exchange_in(0, transitions, None)[0] if transitions else []
        return self._apply_by_partition(transitions, {})

    def _apply_by_partition(
        self, transitions: Sequence[Transition], freed: dict[int, _Freed]
    ) -> list[Applied]:
        """Send the changes to their partitions, and note the lanes in which jobs with limits have ended."""
        places = self._partitions.by_partition(range(len(transitions)), lambda at: transitions[at].job_id)
        results = [Applied.REFUSED] * len(transitions)
        failed: StorageError | None = None
        for partition, here in places.items():
            lanes: _Freed = {}
            try:
                found, _ = self._exchange_in(partition, [transitions[place] for place in here], None, lanes)
            except StorageError as error:
                failed = error if failed is None or isinstance(error, StorageUnavailable) else failed
                continue
            if lanes:
                freed[partition] = {lane: [] for lane in lanes}
            is_plain = all(transitions[place].to is State.SUCCEEDED for place in here)
            if lanes or not is_plain or Applied.REFUSED in found:
                # A job might have been enqueued, might have an earlier due time, or might no longer be held
                # by a session.
                self._turns.note(partition)
            for place, result in zip(here, found, strict=True):
                results[place] = result
        if isinstance(failed, StorageUnavailable):
            failed.is_untouched &= len(places) == 1
        if failed is not None:
            raise failed
        return results

    @override
    def exchange(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        """See `Storage.exchange`. This takes one round trip, or one for each partition that is involved.

        After a wait without a notification, a claim probably finds nothing. So a smaller script, which takes
        a third of the server's time, first checks whether there are jobs. If there are, a second round trip
        is needed.
        """
        is_quiet = self._waiting.pop_quiet(request.queues)
        self._waiting.mark(request.queues)
        if self._partitions.number > 1:
            freed: dict[int, _Freed] = {}
            return Exchange(self._apply_by_partition(transitions, freed), self._claim_in_turn(request, freed))
        if is_quiet and not transitions and not request.left_out:
            found = self._run("reading.idle", 0, request.session, *(request.queues or ()))
            if found:
                return Exchange([], self._read_claim(0, found, request))
        return Exchange(*self._exchange_in(0, transitions, request))

    def _claim_in_turn(self, asked: ClaimRequest, freed: Mapping[int, _Freed]) -> Claim:
        jobs: list[ClaimedJob] = []
        next_due_at = next_claim_at = None
        for partition in self._turns.order(asked.queues, jobs, self.database.clock_offset):
            wanted = asked.limit - len(jobs)
            try:
                _, claim = self._exchange_in(
                    partition, [], attrs.evolve(asked, limit=wanted), freed.get(partition)
                )
            except StorageError:
                # The claim did not check this partition, so its jobs must not wait for the next poll.
                self._turns.note(partition)
                if not jobs:
                    raise
                break  # return the claimed jobs, because they would otherwise wait until the session ends
            next_due_at, next_claim_at = claim.next_due_at, claim.next_claim_at
            if claim.is_session_lost:
                # The reply for a lost session does not show whether this partition has work.
                self._turns.note(partition)
                return Claim([], earliest_due_at(self.database), is_session_lost=True)
            jobs += claim.jobs
            if asked.left_out:  # other claims may take the jobs of the tasks that this claim skips
                self._turns.note(partition)
            else:
                self._turns.found(asked.queues, partition, claim.jobs, wanted)
            if len(claim.jobs) == wanted:
                break
        if not asked.limit:  # a caller that does not want any jobs requests the next due time
            next_due_at = earliest_due_at(self.database)
        return Claim(jobs, next_due_at, next_claim_at=next_claim_at)

    def _exchange_in(
        self,
        partition: int,
        transitions: Sequence[Transition],
        asked: ClaimRequest | None,
        freed: _Freed | None = None,
    ) -> tuple[list[Applied], Claim]:
        """Send changes and a claim in one script.

        More round trips are needed if there are too many changes for one script, or if the record of a job
        has changed since its claim. `freed` contains the lanes in which jobs of earlier changes have ended;
        the lanes of these changes are added.
        """
        arguments: list[Any] = [*_NO_CLAIM]
        if asked is not None:
            names = () if asked.queues is None else tuple(dict.fromkeys(asked.queues))
            number = -1 if asked.queues is None else len(names)
            claim = ExchangeClaim(asked.session, now=asked.now, limit=max(asked.limit, 0), queues=number)
            arguments = [*claim, *names]
        freed = {} if freed is None else freed
        held: list[ClaimedRecord | None] = []
        for transition in transitions:
            claims = self._claimed_jobs.get(transition.session or "")
            one = None if claims is None else claims.pop(transition.job_id, None)
            held.append(one)
            if one is not None and one[1].admission_json is not None:
                lane = lane_of(one[1].admission)
                if lane is not None:
                    freed.setdefault((one[1].queue, lane), []).append(transition.job_id)
        if freed:  # before the changes, because the script needs the lanes when it handles the changes
            arguments += Group("lanes", len(freed))
            for (queue, lane), ids in freed.items():
                arguments += (*LaneEnds(queue=queue, lane=lane, size=len(ids)), *ids)
        if asked is not None and asked.left_out:
            arguments += Group("left_out", len(asked.left_out))
            arguments += map(task_head, sorted(asked.left_out))
        order, before = write_changes(arguments, transitions, held, self._partitions)
        results = [Applied.REFUSED] * len(transitions)
        for some in before:
            self._exchange_some(partition, transitions, some, results, None)
        reply = self._run("exchange", partition, *arguments)
        letters = ExchangeReply(*reply[:_ABOUT]).results
        closer = []
        if letters.count(_APPLIED) == len(transitions):
            results = [Applied.APPLIED] * len(transitions)
        else:
            for place, letter in zip(order, letters, strict=True):
                if letter == _LOOK_CLOSER:
                    closer.append(place)
                else:
                    results[place] = APPLIED_BY_DIGIT[letter]
        if closer:  # the records have changed since the claim: send changes field by field, then the claim
            return results, self._exchange_some(partition, transitions, closer, results, asked)
        return results, Claim([]) if asked is None else self._read_claim(partition, reply, asked)

    def _exchange_some(
        self,
        partition: int,
        transitions: Sequence[Transition],
        places: Sequence[int],
        results: list[Applied],
        asked: ClaimRequest | None,
    ) -> Claim:
        """Send the changes with these positions separately; write their results to `results`."""
        found, claim = self._exchange_in(partition, [transitions[place] for place in places], asked)
        for place, result in zip(places, found, strict=True):
            results[place] = result
        return claim

    def _read_claim(self, partition: int, reply: Sequence[Any], asked: ClaimRequest) -> Claim:
        """Return the claim that a reply contains, and add the claimed jobs to `_claimed_jobs`.

        Jobs that cannot be read are settled as failed.
        """
        _, next_due, next_claim = ExchangeReply(*reply[:_ABOUT])
        next_due_at = self._turns.due(partition, int(float(next_due)) if next_due else None)
        next_claim_at = None
        if next_claim == _LOST:
            self.forget_held(asked.session)
            return Claim([], next_due_at, is_session_lost=True)
        if next_claim or self._turns.has_next_claim:
            next_claim_at = self._turns.note_next_claim(
                partition,
                self.database.clock_offset,
                *map(int, next_claim.split()),
                has_checked=asked.limit > 0,
            )
        jobs: list[ClaimedJob] = []
        unreadable: list[Transition] = []
        held = self._claimed_jobs.setdefault(asked.session, {}) if len(reply) > _ABOUT else {}
        for place in range(_ABOUT, len(reply), _OF_EACH):
            id, record, payload = reply[place : place + _OF_EACH]
            try:
                job = claimed_job(id, record, payload, asked.now)
                if job.admission_json is not None:
                    _require_admission(job.admission_json)
            except (ValueError, TypeError):
                unreadable.append(_quarantine(id, claim_of(record)[1], asked))
                continue
            held[id] = (record, job)
            jobs.append(job)
        if unreadable:
            self._exchange_in(partition, unreadable, None)
        return Claim(jobs, next_due_at, next_claim_at=next_claim_at)

    # ---- sessions ----------------------------------------------------------------------------------------

    @override
    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        taken = super().end_session(session, running, reason=reason)
        self.forget_held(session)
        return taken

    # ---- jobs claimed here -------------------------------------------------------------------------------

    def forget_held(self, session: str | None = None) -> None:
        """Forget the claimed jobs of a session that has ended, or of all sessions.

        From now on, changes to these jobs are sent field by field.
        """
        if session is None:
            self._claimed_jobs.clear()
        else:
            self._claimed_jobs.pop(session, None)

    @override
    def note_flag(self, session: str, job_id: str, flag: str) -> None:
        claims = self._claimed_jobs.get(session)
        held = None if claims is None else claims.get(job_id)
        if claims is None or held is None or flag in flags_of(held[0]):
            return
        record, job = held
        attempt = len(flags_of(record)) + 1
        claims[job_id] = record[:attempt] + flag + record[attempt:], job


def _require_admission(text: str) -> None:
    """Raise ValueError if the admission is damaged; otherwise, the job might start without its limit.

    An admission that only a newer release can read does not raise an error.
    """
    if read_admission(text).unread is not None and is_damaged(text):
        raise ValueError(text)


def _quarantine(id: str, fence: int, asked: ClaimRequest) -> Transition:
    """Return the change that settles an unreadable job as failed; it is kept until a person deletes it."""
    error = ErrorInfo(
        "firelock.StorageError", "a key contains data that Firelock did not write", "unreadable payload"
    )
    reason = f"the stored job cannot be read: {error.message}"
    held = frozenset({State.PROCESSING})
    return Transition(id, held, asked.session, fence, State.FAILED, asked.now, reason, error=error)
