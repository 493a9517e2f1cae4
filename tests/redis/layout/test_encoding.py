"""Each format is read as it was written, by Python alone and through the scripts."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firelock.model.limit import LimitUse, UniqueUse, Until
from firelock.storage import (
    Admission,
    Applied,
    BatchCounts,
    BatchRules,
    Chunk,
    ClaimedJob,
    ClaimRequest,
    Edge,
    ErrorInfo,
    HeldClaim,
    JobRecord,
    LogLine,
    LostClaim,
    Memo,
    MemoKind,
    NewJob,
    NewMemo,
    NewSession,
    On,
    Progress,
    Relations,
    Remembered,
    Renewal,
    State,
    Transition,
    memo_words,
    write_admission,
    write_relations,
)
from firelock_redis.layout.encoding import (
    ENTRY,
    UNIQUE,
    OptionalFields,
    claimed_job,
    optional_of,
    payload_of,
    plain_end,
    read_history,
    record_of,
)
from tests.redis.databases import opened

SESSION = "0193aaaa-0000-7000-8000-00000000000a"
CREATED, NOW, AT, STARTED, EXPIRES, DUE = (1_700_000_000_000_000 + number * 1_000_003 for number in range(6))
SPECIAL = "\t\n\r\\\"'\0\x1f\x7f\u2028 %{}[],é\U0001f525"
TEXTS = st.text(st.sampled_from(SPECIAL) | st.characters(exclude_categories=["Cs"]), max_size=12)
SOME_TEXTS = st.none() | TEXTS
NAMES = TEXTS.map(lambda text: f"n{text}")
INSTANTS = st.integers(1, 2**51)
SHARED = {field.name for field in attrs.fields(ClaimedJob)} & {
    field.name for field in attrs.fields(JobRecord)
}
EXAMPLES = settings(max_examples=40)


@st.composite
def new_jobs(draw, **fields):
    """Draw a job; half of the jobs have the optional fields."""
    drawn = {"task": TEXTS, "arguments": TEXTS, "serializer": TEXTS, "priority": st.integers(-99, 99)}
    if draw(st.booleans()):
        drawn |= {
            "nominal_at": st.none() | INSTANTS, "tags": st.lists(NAMES, unique=True, max_size=3).map(tuple),
            "timeout_seconds": st.none() | st.just(1.5), "retry": SOME_TEXTS, "meta_json": SOME_TEXTS,
            "recurring_id": st.none() | NAMES,
        }  # fmt: skip
    values = {name: draw(strategy) for name, strategy in drawn.items()}
    fixed = {"id": "0", "queue": "default", "state": State.ENQUEUED, "created_at": CREATED}
    return NewJob(**{**fixed, **values, **{name: draw(strategy) for name, strategy in fields.items()}})


def admissions(limits):
    """Draw the admission of a job; half of them have more than limits."""
    uniques = st.builds(UniqueUse, key=NAMES, until=st.just(Until.SUCCEEDED), at_least=st.just(3))
    return st.builds(
        Admission, limits=limits, unique=st.none() | uniques, start_before=st.none() | st.just(2**52)
    )


uses = st.builds(LimitUse, key=st.just("limit:a"), cost=st.integers(1, 3), is_strict=st.booleans())


def values_of(job, names):
    """Return the job's values of these fields."""
    return {name: getattr(job, name) for name in names if hasattr(job, name)}


def of_job(job):
    """Return the stored fields of a new job."""
    names = {field.name for field in attrs.fields(NewJob)} & {field.name for field in attrs.fields(JobRecord)}
    return values_of(job, names - {"id"})


@pytest.fixture(scope="module")
def storage(server):
    """A storage for all examples of the module; each example has its own jobs."""
    with opened(server) as storage:
        storage.begin_session(NewSession(SESSION, "server", "a:1", "a", 1, CREATED, 3_600.0))
        yield storage


def claimed(storage):
    """Return the one job that can be claimed."""
    (job,) = storage.claim(ClaimRequest(session=SESSION, queues=None, limit=10, now=NOW)).jobs
    return job


def record(storage, job):
    """Return the job's record."""
    (found,) = storage.get([job.id])
    return found


def stored(storage, job):
    """Store the job with the script for its kind; return it with its id."""
    job = attrs.evolve(job, id=storage.new_ids(1)[0])
    assert [True] == list(storage.insert([job]).is_new)
    return job


def ended(job, to=State.SUCCEEDED, **fields):
    """Return the end of a claimed job; all of its numbers are different."""
    return Transition(
        job_id=job.id, from_states=frozenset({State.PROCESSING}), session=SESSION, fence=job.fence, to=to,
        at=AT, attempt=job.attempt, claimed_at=job.claimed_at, started_at=STARTED, expires_at=EXPIRES,
        **fields,
    )  # fmt: skip


def finish(storage, job):
    """Settle the job, so that it does not disturb the next example."""
    assert [Applied.APPLIED] == storage.apply([ended(job)])


# ---- Python alone ----------------------------------------------------------------------------------------


@EXAMPLES
@given(
    new_jobs(parents=st.just((Edge("p", On.FAILED), Edge("q", carries=True))), relations_json=SOME_TEXTS),
    TEXTS,
)
def test_claimed_job_and_job_record_have_the_same_fields(job, reason):
    """A run and a reader of the job's record get the same value for every field.

    If this fails: a field was added to `PAYLOAD`, `OptionalFields` or `RECORD`, and `claimed_job` reads other
    fields.
    """
    payload = payload_of(job, optional_of(job))
    asks = write_admission(Admission(limits=(LimitUse("limit:a"),)))
    line = ENTRY.write(state="scheduled", at=AT, reason=reason)
    text = f"Psr3 7 {-job.priority << 45} {job.queue} {SESSION}\n2 1 {DUE} - {asks}\n\n{line}\n"
    whole = f"{text}{AT}\t{NOW}\t{STARTED}\t\t\t\t\t\t\t"

    claim, shown = claimed_job(job.id, text, payload, NOW), record_of(job.id, whole, payload)

    assert values_of(claim, SHARED) == values_of(shown, SHARED)
    assert of_job(attrs.evolve(job, state=State.PROCESSING, admission_json=asks)) == of_job(shown)
    assert (3, 7, 2, 1, DUE, True) == (
        claim.attempt, claim.fence, claim.retries, claim.crashes, claim.enqueued_at, claim.has_memos
    )  # fmt: skip
    assert (AT, NOW, STARTED, SESSION) == (
        shown.changed_at, shown.claimed_at, shown.started_at, shown.session
    )  # fmt: skip
    (entry,) = read_history(whole, job.created_at)
    assert (State.SCHEDULED, AT, reason) == (entry.state, entry.at, entry.reason)


@EXAMPLES
@given(TEXTS, TEXTS, SOME_TEXTS)
def test_record_of_a_plain_end_has_the_values_of_the_transition(server, result, absent):
    """The record that a plain outcome writes has the values of the transition.

    If this fails: `plain_end` writes a field of `LAST` in another field's place.
    """
    held = f"P1 1 0 default {SESSION}\n0 0 {DUE} E\n\n"
    job = claimed_job("0", held, "t\t\t1\t\n", NOW)
    end = ended(job, server=server, result=result, result_absent=absent)

    queue, (id, first_line, at, text), batch = plain_end(end, held, job)
    shown = record_of(id, text, "t\t\t1\t\n")

    assert ("default", "0", AT, "", True) == (queue, id, at, batch, held.startswith(first_line))
    assert (State.SUCCEEDED, AT, NOW, STARTED, AT, EXPIRES, None, server, result, absent) == (
        shown.state, shown.changed_at, shown.claimed_at, shown.started_at, shown.ended_at, shown.expires_at,
        shown.session, shown.server, shown.result, shown.result_absent,
    )  # fmt: skip
    assert end.entry() == read_history(text, CREATED)[-1]


def test_declared_arrays_match_the_classes_of_the_core():
    """Each array that is declared here has the fields of the core's class.

    If this fails: a field of `UniqueUse`, `OptionalFields` or `HistoryEntry` was added, removed or moved.
    """
    assert UNIQUE.fields == tuple(
        {"until": "kept_until"}.get(field.name, field.name) for field in attrs.fields(UniqueUse)[:-1]
    )
    assert set(OptionalFields._fields) <= {field.name for field in attrs.fields(NewJob)}


# ---- through the scripts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "jobs",
    [
        new_jobs(),
        new_jobs(admission_json=admissions(st.just((LimitUse("limit:a"),))).map(write_admission)),
        new_jobs(admission_json=admissions(st.tuples(uses)).map(write_admission), reason=TEXTS),
        new_jobs(reason=SOME_TEXTS),
    ],
    ids=["plain", "keyed", "any with limits", "any"],
)
def test_claim_and_record_have_the_values_of_the_stored_job(storage, jobs):
    """Whichever script stores a job, the claim and the record have the values of the new job.

    If this fails: a script writes or reads a field of `PAYLOAD`, `RECORD`, `LAST` or its own words elsewhere.
    """

    @EXAMPLES
    @given(jobs)
    def stored_and_claimed(job):
        job = stored(storage, job)
        before = record(storage, job)
        claim = claimed(storage)
        during = record(storage, job)
        finish(storage, claim)

        assert of_job(job) == of_job(before)
        assert values_of(claim, SHARED) == values_of(during, SHARED)
        assert (State.PROCESSING, SESSION, "a:1", NOW, NOW, 1, 1) == (
            during.state, during.session, during.server, during.claimed_at, during.changed_at, during.attempt,
            during.fence,
        )  # fmt: skip
        assert [State.ENQUEUED, State.SUCCEEDED] == [
            entry.state for entry in storage.history(job.id).entries if entry.state is not State.PROCESSING
        ]

    stored_and_claimed()


@EXAMPLES
@given(new_jobs(reason=SOME_TEXTS), st.builds(ErrorInfo, TEXTS, TEXTS, TEXTS, SOME_TEXTS), TEXTS, TEXTS)
def test_change_field_by_field_stores_every_value(storage, job, error, reason, server):
    """Every value of a retry is in the job, its last error, its attempts and its history.

    If this fails: `Change` and its use in scripts/exchange.lua differ in a position.
    """
    job = stored(storage, job)
    claim = claimed(storage)
    retry = ended(
        claim, State.SCHEDULED, due_at=2**51, reason=reason, server=server, retries=5, crashes=3, error=error
    )

    assert [Applied.APPLIED] == storage.apply([retry])
    shown, history = record(storage, job), storage.history(job.id)
    taken = attrs.evolve(retry, from_states=frozenset({State.SCHEDULED}), session=None, to=State.DELETED)
    assert [Applied.APPLIED] == storage.apply([taken])

    assert (State.SCHEDULED, AT, STARTED, 2**51, reason, server, 5, 3, 1, None) == (
        shown.state, shown.changed_at, shown.started_at, shown.due_at, shown.reason, shown.server,
        shown.retries, shown.crashes, shown.attempt, shown.session,
    )  # fmt: skip
    assert attrs.evolve(error, traceback=None) == shown.error
    assert [(1, AT, error)] == [(one.attempt, one.at, one.error) for one in history.errors]
    assert retry.entry() == history.entries[-1]
    assert 2**51 == storage.history(job.id).entries[-1].due_at


@EXAMPLES
@given(new_jobs(), NAMES, SOME_TEXTS, TEXTS)
def test_suspended_job_is_resumed_by_its_memo(storage, job, name, value, author):
    """The memo for which a job waits resumes the job, and is read back unchanged.

    If this fails: `Further`, `AddedMemo` or `STORED_MEMO` differ from their use in the scripts.
    """
    job = stored(storage, job)
    claim = claimed(storage)
    waits_for = memo_words(MemoKind.SIGNAL, name)
    suspended = attrs.evolve(
        ended(claim, State.AWAITING, waits_for=waits_for, gives_back=True, due_at=2**51), expires_at=None
    )
    memo = Memo(
        MemoKind.SIGNAL, name, value, is_done=True, at=AT, started_at=STARTED, attempt=4, author=author
    )

    assert [Applied.APPLIED] == storage.apply([suspended])
    assert waits_for == record(storage, job).waits_for
    assert [Remembered(Applied.APPLIED, memo)] == storage.remember([NewMemo(job.id, memo)])
    again = claimed(storage)
    (recalled,) = storage.recall(job.id, session=SESSION, fence=again.fence)
    forgets = attrs.evolve(
        ended(again, State.FAILED, error=ErrorInfo("a", "b", "c")), forget_from=(memo.kind, name)
    )
    assert [Applied.APPLIED] == storage.apply([forgets])

    assert (memo, 1, True) == (recalled, again.attempt, again.has_memos)
    assert [] == storage.recall(job.id)


@EXAMPLES
@given(new_jobs(), st.lists(TEXTS, min_size=1, max_size=3), TEXTS, TEXTS)
def test_logs_progress_and_streams_are_read_back_unchanged(storage, job, texts, level, data):
    job = stored(storage, job)
    claim = claimed(storage)
    lines = [LogLine(number, AT + number, level, text, number) for number, text in enumerate(texts, 1)]
    progress = Progress(1.5, 7.0, AT, level)

    storage.append_logs({job.id: lines}, {job.id: progress})
    storage.append_stream(job.id, [Chunk("out", 3, data)], session=SESSION, fence=claim.fence)
    shown, read = record(storage, job), storage.read_log(job.id)
    (chunk,) = storage.read_stream(job.id, "out")
    finish(storage, claim)

    assert (lines, progress, Chunk("out", 3, data)) == (read, shown.progress, chunk)


@EXAMPLES
@given(TEXTS, TEXTS, TEXTS)
def test_session_and_renewal_are_read_back_unchanged(storage, server, host, queues):
    """The result of ending the session is read back unchanged as well."""
    (id,) = storage.new_ids(1)
    session = NewSession(
        id=id, server_id="s", server=server, host=host, pid=7, started_at=CREATED, timeout_seconds=60.5,
        workers=3, queues=queues, version="1.2",
    )  # fmt: skip
    renewal = Renewal(id, 1, "quiet", 2, 3.5, 4, 5, 6)

    storage.begin_session(session)
    assert [True] == storage.renew([renewal])
    (shown,) = [one for one in storage.list_sessions() if one.session.id == id]
    taken = storage.end_session(id, [], reason="over")

    assert (session, renewal, True, False) == (shown.session, shown.renewal, shown.is_alive, shown.is_closing)
    assert (id, server, [], []) == (taken.session, taken.server, taken.crashed, taken.returned)


@EXAMPLES
@given(st.text("abc-\U0001f525'\"", min_size=1, max_size=6), st.integers(2, 5))
def test_limit_key_and_unique_key_are_read_back_completely(storage, name, concurrent):
    """The state of a key contains its running and its waiting jobs.

    Scripts read the limit's settings as they are stored. If this fails: `KeyReply`, `Line`, `LIMIT_SETTINGS`
    or `UNIQUE_OWNER` differ from their use in scripts.
    """
    key, other = f"key:{name}", f"other:{name}"
    settings = {"concurrent": concurrent, "rate": 10**6, "per": 10**6, "burst": 100, "paused": False}
    storage.put_record("limit", key, json.dumps(settings))
    uses = (LimitUse(key), LimitUse(other))
    asks = [
        write_admission(Admission(uses, UniqueUse(f"task {name}", Until.SUCCEEDED, at_least=5))),
        *[write_admission(Admission(uses))] * concurrent,
    ]
    plain = NewJob(
        id="0", task="t", arguments="", serializer="", queue="default", priority=0, state=State.ENQUEUED,
        created_at=CREATED,
    )  # fmt: skip
    jobs = [stored(storage, attrs.evolve(plain, admission_json=one)) for one in asks]

    running = storage.claim(ClaimRequest(session=SESSION, queues=None, limit=100, now=NOW)).jobs
    (held,) = [one for one in storage.find_keys(key) if one.key == key]
    line = storage.find_waiting(key, job_id=jobs[-1].id)
    (unique,) = [one for one in storage.find_unique(f"task {name}") if one.key == f"task {name}"]
    storage.apply([ended(job) for job in running])
    finish(storage, claimed(storage))

    assert (concurrent, 1, {job.id for job in jobs[:-1]}, (other,)) == (
        held.running, held.waiting, set(held.holders), held.others
    )  # fmt: skip
    assert ((jobs[-1].id,), 0, False) == (line.ids, line.place, line.is_cut)
    assert jobs[0].id == unique.job_id
    assert storage.clock() < unique.free_at + 10**12


def test_batch_and_members_are_read_back_unchanged(storage):
    """A batch stored with its first members has the same counts as one to which they are added later.

    If this fails: `NewBatch`, `AnyJob`, `RELATIONS` or `RULES` differ from their use in the scripts.
    """
    for at_once in (True, False):
        batch, *members = storage.new_ids(3, colocate_with=[None, None, None])
        rules = BatchRules("b\t\n\U0001f525", fails_fast=True, keeps=(1, None, 3))
        plain = NewJob(
            id=batch, task="", arguments="", serializer="", queue="default", priority=0, state=State.AWAITING,
            created_at=CREATED, due_at=2**51, reason="r\t", tags=("one", "two\n"),
            relations_json=write_relations(Relations(batch=rules)),
        )  # fmt: skip
        jobs = [
            attrs.evolve(
                plain, id=id, task="t", state=State.ENQUEUED, due_at=None, reason=None, tags=(),
                relations_json=write_relations(Relations(batch_id=batch)),
            )
            for id in members
        ]  # fmt: skip

        for some in [[plain, *jobs]] if at_once else [[plain], jobs]:
            storage.insert(some)
        (counts,) = storage.batch_counts([batch])
        running = storage.claim(ClaimRequest(session=SESSION, queues=None, limit=10, now=NOW)).jobs
        storage.apply([ended(job) for job in running])

        assert of_job(plain) == of_job(record(storage, plain))
        assert BatchCounts(total=2, active=2, is_held=True) == counts
        assert [of_job(job)["relations_json"] for job in jobs] == [job.relations_json for job in running]
        assert [BatchCounts(total=2, succeeded=2, is_held=True)] == storage.batch_counts([batch])


def test_reconciliation_returns_lost_and_unknown_claims(storage):
    """The result contains the stored state of lost claims, and the jobs that the session did not name."""
    jobs = [
        stored(
            storage,
            NewJob(
                id="0", task="t\t", arguments="[]", serializer="", queue="default", priority=place,
                state=State.ENQUEUED, created_at=CREATED,
            ),
        )
        for place in (2, 1)
    ]  # fmt: skip
    request = ClaimRequest(session=SESSION, queues=None, limit=10, now=NOW)
    running = sorted(storage.claim(request).jobs, key=lambda job: job.id)
    unknown = HeldClaim(storage.new_ids(1)[0], 1, None)
    taken = attrs.evolve(ended(running[0], State.DELETED), session=None, fence=None)
    assert [Applied.APPLIED] == storage.apply([taken])

    found = storage.reconcile(SESSION, [unknown, HeldClaim(jobs[0].id, 1, STARTED)])
    storage.reconcile(SESSION, [HeldClaim(jobs[0].id, 1, None), HeldClaim(jobs[1].id, 1, STARTED)])

    assert (False, [running[1]]) == (found.is_session_lost, found.unknown)
    assert [
        LostClaim(unknown),
        LostClaim(HeldClaim(jobs[0].id, 1, STARTED), State.DELETED, 1, has_tail=True),
    ] == (found.lost)
    assert STARTED == record(storage, jobs[1]).started_at
    storage.apply([ended(job) for job in running])
