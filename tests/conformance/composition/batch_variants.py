"""The scenes for testing batches, and the broken forms of the rules with their expected verdicts."""

from __future__ import annotations

import attrs

from tests.conformance.explorer import Verdict

from .batch_rules import Budget, Rules, Scene

SCENES = {
    "chunks": Scene((0, 0), Budget(1, 1, 1, 0, 0, 0, 1), chunks=((0,), (1,))),
    "chunks, added to": Scene((0, 0, 0), Budget(0, 0, 1, 0, 1, 0, 1), chunks=((0,), (1,)), adds={0: 2}),
    "flow": Scene((0, 0, 0), Budget(1, 1, 0, 0, 0, 0, 1), parent_of={1: 0, 2: 1}, chunks=((0, 1, 2),)),
    "cancel": Scene((0, 0, 0), Budget(0, 0, 1, 1, 1, 0, 1), parent_of={1: 0}, chunks=((0, 1),), adds={0: 2}),
    "outside": Scene((0, 0), Budget(1, 0, 1, 0, 0, 1, 1), chunks=((0,),), added_outside=1),
    "nested": Scene((0, 0, 1), Budget(1, 0, 1, 0, 1, 0, 1), outer_of={0: 1}, adds={0: 1}),
    "nested, cancelled": Scene((0, 1), Budget(0, 0, 1, 1, 0, 0, 1), outer_of={0: 1}),
    "after": Scene((0, 0, 1), Budget(1, 0, 0, 0, 0, 0, 1), parent_of={1: 0}, outer_of={0: 1}, after={0: 2}),
    "after, cancelled": Scene(
        (0, 0, 1), Budget(0, 0, 1, 1, 0, 0, 1), parent_of={1: 0}, outer_of={0: 1}, after={0: 2}
    ),
    "stops": Scene(
        (0, 0, 0),
        Budget(1, 0, 1, 0, 0, 0, 2),
        parent_of={2: 1},
        chunks=((0, 1, 2),),
        fails_fast=frozenset({0}),
    ),
    "stops, twice": Scene((0, 0), Budget(2, 0, 0, 0, 0, 0, 2), chunks=((0, 1),), fails_fast=frozenset({0})),
    "stops, cancelled": Scene(
        (0, 0), Budget(1, 0, 0, 1, 0, 0, 1), parent_of={1: 0}, chunks=((0, 1),), fails_fast=frozenset({0})
    ),
    "stops around": Scene((0, 1), Budget(1, 0, 1, 0, 0, 0, 1), outer_of={0: 1}, fails_fast=frozenset({1})),
    "stops within": Scene(
        (0, 0, 1), Budget(1, 0, 0, 0, 0, 0, 1), outer_of={0: 1}, fails_fast=frozenset({0, 1})
    ),
}

LARGE_SCENES = {
    "chunks, all": Scene((0, 0, 0), Budget(1, 1, 1, 0, 1, 0, 1), chunks=((0,), (1,)), adds={0: 2}),
    "flow, all": Scene((0, 0, 0), Budget(2, 1, 1, 0, 0, 0, 1), parent_of={1: 0, 2: 1}, chunks=((0, 1, 2),)),
    "nested, all": Scene((0, 0, 1), Budget(2, 0, 1, 0, 1, 0, 1), outer_of={0: 1}, adds={0: 1}),
    "after, all": Scene(
        (0, 0, 1), Budget(1, 1, 1, 0, 0, 0, 1), parent_of={1: 0}, outer_of={0: 1}, after={0: 2}
    ),
}
"""More failures at a time: about six minutes, with `python -m tests.conformance.composition`."""

DEEP_SCENE = Scene(
    (0, 0, 0, 1, 2), Budget(3, 1, 2, 1, 1, 0, 2), parent_of={1: 0}, outer_of={0: 1, 1: 2}, after={0: 3},
    adds={0: 2}, fails_fast=frozenset({1}),
)  # fmt: skip
"""Three nested batches with every possible event: too large to explore, so it is walked randomly."""


@attrs.frozen
class Variant:
    """A set of rules with one rule disabled, and the scene that reveals the fault."""

    name: str
    scene: str
    rules: Rules
    verdict: Verdict = Verdict.UNSAFE
    checks_counts: bool = False


VARIANTS = (
    Variant("a late end is counted again", "chunks", Rules(ends_are_guarded=False)),
    Variant("a crash is an end", "chunks", Rules(crash_is_no_end=False)),
    Variant("not held while it is filled", "chunks", Rules(is_held=False)),
    Variant("a hold that never expires", "chunks", Rules(hold_expires=False), Verdict.STUCK),
    Variant("deltas are taken before the lock", "chunks", Rules(lock_before_take=False, folders=2)),
    Variant("a requeue writes no opposite", "chunks", Rules(requeue_writes_opposite=False)),
    Variant("a parent leaves before its children come", "flow", Rules(parent_stays_active=False)),
    Variant("the row changes beside a fold", "chunks", Rules(row_waits_for_fold=False)),
    Variant("added from outside without a lock", "outside", Rules(outside_add_locks=False)),
    Variant("cancelled is ended", "cancel", Rules(cancel_waits=False)),
    Variant("ended unswept", "cancel", Rules(cancel_waits_for_sweep=False), Verdict.STUCK),
    Variant("a tail is not counted", "cancel", Rules(tails_count=False)),
    Variant("members of an unopened batch are not counted", "after", Rules(unopened_count=False)),
    Variant(
        "members of an unopened batch have edges", "after", Rules(batch_alone_waits=False), Verdict.STUCK
    ),
    Variant("reopening is not reported", "nested", Rules(reopening_is_reported=False), checks_counts=True),
    Variant("a stop sweeps without a lock", "stops", Rules(stop_sweeps_locked=False)),
    Variant("a requeue calms nothing", "stops", Rules(requeue_calms=False)),
    Variant("a failure stops for ever", "stops, twice", Rules(stop_is_an_event=False)),
    Variant("a stop ends unswept", "stops", Rules(stop_waits_for_sweep=False)),
)
