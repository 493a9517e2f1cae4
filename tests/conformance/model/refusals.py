"""What each broken variant would let happen, as steps of the storage contract and as the name of a test.

The model shows that a rule is needed; the storage's tests, named after these, show that a storage keeps it.
"""

from __future__ import annotations

from enum import StrEnum

import attrs


class Keeper(StrEnum):
    """Who keeps the rule. What a storage cannot see, children and supervisors must not do."""

    STORAGE = "storage"
    CHILD = "child"
    SUPERVISOR = "supervisor"


@attrs.frozen
class Refusal:
    """One sequence that must not succeed.

    `variant` names the broken variant; `steps` are calls of the contract in order, A and B being sessions of
    living children and J the one job, enqueued at first; `outcome` is what must come of the last step.
    """

    variant: str
    name: str
    keeper: Keeper
    steps: tuple[str, ...]
    outcome: str


_CLAIM = "claim for A: J, fence 1"

REFUSALS = (
    Refusal(
        "guard without the fence",
        "the_same_session_never_settles_with_an_old_fence",
        Keeper.STORAGE,
        (
            _CLAIM,
            "apply A's hand-back with fence 1: applied",
            "claim for A: J, fence 2",
            "apply A's hand-back with fence 1 once more",
        ),
        "refused; J stays processing for A with fence 2",
    ),
    Refusal(
        "guard of the state alone",
        "an_ended_session_never_settles_what_another_has_claimed",
        Keeper.STORAGE,
        (_CLAIM, "end_session of A, J running", "claim for B: J, fence 2", "apply A's success with fence 1"),
        "refused; J stays processing for B with fence 2",
    ),
    Refusal(
        "attempt as the fence",
        "an_attempt_number_given_back_opens_no_guard",
        Keeper.STORAGE,
        (
            "claim for A: J, attempt 1, fence 1",
            "apply A's hand-back with fence 1: applied, attempt given back",
            "claim for A: J, attempt 1 again, fence 2",
            "apply A's success of attempt 1 with fence 1",
        ),
        "refused; J stays processing for A with fence 2",
    ),
    Refusal(
        "guard without the state",
        "a_deleted_job_accepts_no_end_of_its_holder",
        Keeper.STORAGE,
        (_CLAIM, "apply an operator's delete: J keeps A and fence 1 as a tail", "apply A's success, fence 1"),
        "refused; J stays deleted, its tail is gone",
    ),
    Refusal(
        "repeats told as refused",
        "a_repeated_settle_is_already_applied",
        Keeper.STORAGE,
        (_CLAIM, "apply A's success with fence 1: applied", "apply A's success with fence 1 once more"),
        "already; nothing is written twice, and the end is not reported lost",
    ),
    Refusal(
        "a dead session revives",
        "a_dead_session_is_never_renewed",
        Keeper.STORAGE,
        (_CLAIM, "A's timeout passes", "orphans: A is dead, J enqueued", "renew A"),
        "False, now and ever; J stays enqueued",
    ),
    Refusal(
        "reaper without the session test",
        "orphans_takes_nothing_from_a_living_session",
        Keeper.STORAGE,
        (_CLAIM, "A's timeout passes", "renew A: lives on", "orphans"),
        "nothing is taken; J stays processing for A",
    ),
    Refusal(
        "claim ignores its own session",
        "an_ended_session_claims_nothing",
        Keeper.STORAGE,
        ("end_session of A", "claim for A, which had been on its way"),
        "no job, the session is lost; J stays enqueued",
    ),
    Refusal(
        "end takes, then marks",
        "a_claim_beside_the_end_of_its_session_leaves_nothing_behind",
        Keeper.STORAGE,
        ("end_session of A and claim for A at the same moment",),
        "J is enqueued, whichever was first; nothing is processing for A",
    ),
    Refusal(
        "end marks, then takes",
        "a_session_is_never_dead_with_a_job_in_hand",
        Keeper.STORAGE,
        (_CLAIM, "end_session of A, broken off before it answers", "orphans after A's timeout"),
        "A is dead and J enqueued, or A ended as a whole by orphans",
    ),
    Refusal(
        "storage hands back",
        "reconcile_names_the_unknown_and_moves_nothing",
        Keeper.STORAGE,
        (_CLAIM, "reconcile A, holding nothing: J is unknown", "apply A's success with fence 1"),
        "applied: J was still processing for A",
    ),
    Refusal(
        "hand-back during a claim",
        "a_child_hands_nothing_back_while_its_claim_is_open",
        Keeper.CHILD,
        ("claim for A, executed, its reply on the way", "reconcile A, holding nothing: J is unknown"),
        "the child waits for its claim and asks again",
    ),
    Refusal(
        "no reconciliation",
        "a_claim_whose_reply_was_lost_is_found_again",
        Keeper.STORAGE,
        (
            _CLAIM + ", the reply lost",
            "reconcile A, holding nothing",
            "apply A's hand-back of what is unknown",
        ),
        "applied: J is enqueued at its old place, attempt given back",
    ),
    Refusal(
        "reconcile overlooks tails",
        "reconcile_names_a_tail_that_its_child_does_not_hold",
        Keeper.STORAGE,
        (
            _CLAIM + ", the reply lost",
            "apply an operator's delete, then requeue",
            "reconcile A, holding nothing: J is unknown",
            "apply A's hand-back with fence 1: refused",
        ),
        "the tail is gone, and a claim takes J",
    ),
    Refusal(
        "shared session, exit reported",
        "an_exit_ends_the_session_of_the_child",
        Keeper.SUPERVISOR,
        ("a child is killed while its claim is on its way",),
        "the supervisor ends its session; the claim takes nothing",
    ),
    Refusal(
        "shared session, held taken at exit",
        "a_new_child_never_goes_on_with_an_old_session",
        Keeper.SUPERVISOR,
        ("a child is killed while its claim is on its way", "its place is filled"),
        "the new child has a session of its own",
    ),
    Refusal(
        "shared session, supervisor hands back",
        "a_supervisor_never_reconciles_for_its_children",
        Keeper.SUPERVISOR,
        ("claim by a child, executed, its reply on the way", "the supervisor reconciles what it knows of"),
        "it does not: only the child can tell its open claim from a lost one",
    ),
    Refusal(
        "shared session, a child hands back",
        "a_child_never_sees_what_its_neighbour_holds",
        Keeper.STORAGE,
        (_CLAIM, "reconcile B, holding nothing"),
        "nothing is unknown; J stays processing for A",
    ),
    Refusal(
        "delete without a tail",
        "a_deleted_job_keeps_its_holder_until_it_has_stopped",
        Keeper.STORAGE,
        (_CLAIM, "apply an operator's delete", "reconcile A, holding J with fence 1"),
        "J is lost to A, and its row names A and fence 1 until A's end is refused or A is dead",
    ),
    Refusal(
        "claim under a tail",
        "a_job_requeued_under_a_tail_is_not_claimable",
        Keeper.STORAGE,
        (_CLAIM, "apply an operator's delete, then requeue", "claim for B"),
        "no job; after A's end was refused, or A's session ended, a claim for B takes J",
    ),
)
