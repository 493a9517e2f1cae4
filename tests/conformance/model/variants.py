"""The variants as data: the disabled rule, the world for the exploration, and the expected verdict.

A broken variant is explored in the smallest world in which its counter-example is as short as in the whole
one. The protocol itself is explored in several small worlds, and with `--deep` in the whole one.
"""

from __future__ import annotations

import attrs

from tests.conformance.explorer import Verdict

from .checker import ALL_PROMISES, Promise
from .rules import AtExit, Bounds, Reconciler, Rules, Token

CALM = Bounds(
    kills=False, outages=False, lapses=False, losses=False, returns=False, operator=False, locks=False
)
TWO_RUNS = frozenset({Promise.ONE_RUN})
SAFE, UNSAFE, STUCK = Verdict.SAFE, Verdict.UNSAFE, Verdict.STUCK


@attrs.frozen
class Variant:
    """One form of the protocol. `length` is that of its shortest counter-example, 0 if there is none."""

    name: str
    rules: Rules
    bounds: Bounds
    expected: Verdict
    length: int = 0
    promises: frozenset[Promise] = ALL_PROMISES


def _with(**luck):
    return attrs.evolve(CALM, **luck)


_SHARED = Rules(shared_session=True, at_exit=AtExit.TAKE_HELD)

PROTOCOL = (
    Variant("protocol, children die", Rules(), _with(kills=True, losses=True, returns=True), SAFE),
    Variant("protocol, servers die", Rules(), _with(outages=True, lapses=True), SAFE),
    Variant("protocol, partitions", Rules(), _with(losses=True, lapses=True), SAFE),
    Variant("protocol, operators", Rules(), _with(operator=True, losses=True, returns=True), SAFE),
    Variant("protocol, operators and kills", Rules(), _with(operator=True, kills=True), SAFE),
    Variant("protocol, locked rows", Rules(), _with(locks=True, kills=True, lapses=True), SAFE),
    Variant(
        "protocol, locked rows and operators", Rules(), _with(locks=True, kills=True, operator=True), SAFE
    ),
    Variant("protocol, two slots", Rules(), attrs.evolve(_with(operator=True, kills=True), slots=2), SAFE),
    Variant("protocol, three calls", Rules(), attrs.evolve(_with(kills=True), wire=3), SAFE),
)

GUARDS = (
    Variant("guard without the fence", Rules(token=Token.NOTHING), _with(returns=True), UNSAFE, 11),
    Variant(
        "guard of the state alone",
        Rules(token=Token.NOTHING, guard_session=False),
        _with(kills=True, returns=True),
        UNSAFE,
        9,
    ),
    Variant("attempt as the fence", Rules(token=Token.ATTEMPT), _with(returns=True), UNSAFE, 11),
    Variant(
        "guard without the state", Rules(guard_state=False), _with(operator=True, returns=True), UNSAFE, 6
    ),
    # The fence alone would suffice: the session in the guard is a second protection against the same fault.
    Variant("guard without the session", Rules(guard_session=False), _with(operator=True, kills=True), SAFE),
    Variant("repeats reported as refused", Rules(knows_repeats=False), _with(losses=True), UNSAFE, 11),
)

# Each leaves a job with a dead session, which by itself breaks a condition. The counter-example shows that
# the job stays there.
_STAYS_THERE = ALL_PROMISES - {Promise.HELD_BY_LIVING}

SESSIONS = (
    Variant("a dead session revives", Rules(death_is_final=False), _with(lapses=True), UNSAFE, 7),
    Variant("reaper without the session test", Rules(reaper_tests_session=False), CALM, UNSAFE, 5),
    Variant(
        "claim ignores its own session",
        Rules(claim_tests_session=False),
        _with(kills=True),
        STUCK,
        4,
        _STAYS_THERE,
    ),
    Variant(
        "end takes, then marks",
        Rules(at_exit=AtExit.TAKE_THEN_MARK),
        _with(kills=True),
        STUCK,
        4,
        _STAYS_THERE,
    ),
    Variant(
        "end marks, then takes",
        Rules(at_exit=AtExit.MARK_THEN_TAKE),
        _with(kills=True, outages=True),
        STUCK,
        5,
        _STAYS_THERE,
    ),
)

LOCKED_ROWS = (
    Variant(
        "sweeps leave closing sessions alone",
        Rules(sweeps_continue=False),
        _with(locks=True, kills=True),
        STUCK,
        4,
    ),
    Variant("sweeps blame all", Rules(sweeps_keep_blame=False), _with(locks=True, kills=True), UNSAFE, 5),
    Variant(
        "sweeps take what was held",
        Rules(sweeps_read_rows=False),
        _with(locks=True, lapses=True, returns=True),
        UNSAFE,
        12,
    ),
)

RECONCILING = (
    Variant("storage hands back", Rules(reconciler=Reconciler.STORAGE), CALM, UNSAFE, 6),
    Variant("hand-back during a claim", Rules(reconciler=Reconciler.HASTY_CHILD), CALM, UNSAFE, 8),
    Variant("no reconciliation", Rules(reconciler=Reconciler.NONE), _with(losses=True), STUCK, 3),
    Variant(
        "reconcile overlooks tails",
        Rules(reconcile_sees_tails=False),
        _with(losses=True, operator=True),
        STUCK,
        4,
    ),
)

SHARED_SESSION = (
    # The control: with one session per process, no kill leaves a job behind, even without reconciliation.
    Variant("own sessions, no reconciliation", Rules(reconciler=Reconciler.NONE), _with(kills=True), SAFE),
    Variant(
        "shared session, exit reported",
        attrs.evolve(_SHARED, at_exit=AtExit.REPORT, reconciler=Reconciler.NONE),
        _with(kills=True),
        STUCK,
        3,
    ),
    Variant(
        "shared session, held taken at exit",
        attrs.evolve(_SHARED, reconciler=Reconciler.NONE),
        _with(kills=True),
        STUCK,
        3,
    ),
    Variant(
        "shared session, supervisor hands back",
        attrs.evolve(_SHARED, reconciler=Reconciler.SUPERVISOR),
        CALM,
        UNSAFE,
        8,
    ),
    Variant("shared session, a child hands back", _SHARED, CALM, UNSAFE, 8),
)

# The tail keeps the claim of a deleted run valid, so these two are judged only by the second run.
TAILS = (
    Variant(
        "delete without a tail", Rules(delete_leaves_tail=False), _with(operator=True), UNSAFE, 10, TWO_RUNS
    ),
    Variant("claim under a tail", Rules(tail_blocks_claim=False), _with(operator=True), UNSAFE, 10, TWO_RUNS),
)

VARIANTS = (*PROTOCOL, *GUARDS, *SESSIONS, *LOCKED_ROWS, *RECONCILING, *SHARED_SESSION, *TAILS)

# All failures together take about four minutes and a gigabyte of memory.
DEEP = (
    Variant("protocol, everything", Rules(), Bounds(), SAFE),
    Variant("protocol, three calls, children die", Rules(), attrs.evolve(PROTOCOL[0].bounds, wire=3), SAFE),
    Variant("protocol, two slots, operators", Rules(), attrs.evolve(PROTOCOL[3].bounds, slots=2), SAFE),
    *(
        attrs.evolve(variant, name=f"{variant.name}, everything", bounds=Bounds())
        for variant in VARIANTS
        if variant.expected is UNSAFE
    ),
)

# A storage refuses the effect of each broken variant, which a test of the kit detects. Otherwise the entry
# names the party that keeps the rule.
REFUSALS = {
    "guard without the fence": "test_only_the_holder_of_a_claim_can_settle_it",
    "guard of the state alone": "test_only_the_holder_of_a_claim_can_settle_it"
    " test_jobs_of_an_ended_session_are_claimed_again",
    "attempt as the fence": "test_only_the_holder_of_a_claim_can_settle_it",
    "guard without the state": "test_end_by_the_holder_is_refused_and_removes_the_tail",
    "repeats reported as refused": "test_repeated_settle_returns_already",
    "a dead session revives": "test_each_renewal_of_a_call_has_its_own_result"
    " test_orphans_returns_a_session_once",
    "reaper without the session test": "test_orphans_ends_only_expired_sessions",
    "claim ignores its own session": "test_ended_session_claims_nothing",
    "end takes, then marks": "test_claim_races_the_end_of_its_session",
    "end marks, then takes": "test_settle_races_the_end_of_its_session",
    "sweeps leave closing sessions alone": "test_locked_job_delays_only_its_own_return",
    "sweeps blame all": "test_continued_end_uses_running_jobs_and_reason_of_the_first",
    "sweeps take what was held": "test_late_end_is_stored_while_the_session_is_closing",
    "storage hands back": "test_job_not_named_by_its_worker_process_is_unknown",
    "hand-back during a claim": "a child, which waits for its claim and asks again",
    "no reconciliation": "test_unknown_job_can_be_handed_back",
    "reconcile overlooks tails": "test_reconcile_returns_a_deleted_job_to_its_holder",
    "shared session, exit reported": "a supervisor, which ends the session of a child that died",
    "shared session, held taken at exit": "a supervisor, which gives the new child a session of its own",
    "shared session, supervisor hands back": "a supervisor, which never reconciles for its children",
    "shared session, a child hands back": "test_reconcile_does_not_return_claims_known_to_both_sides",
    "delete without a tail": "test_delete_of_a_running_job_leaves_a_tail",
    "claim under a tail": "test_requeued_job_with_a_tail_is_not_claimed",
}
