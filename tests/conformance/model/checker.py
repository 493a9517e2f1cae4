"""The protocol as a model that `explorer` can explore, and what it promises in every world."""

from __future__ import annotations

from enum import StrEnum

import attrs

from .moves import first_world, moves
from .rules import Bounds, Rules
from .state import DEAD, FRESH, NOBODY, RUNNING, UP, normalised


class Promise(StrEnum):
    """What must hold in every world; the ends are judged where they are accepted."""

    ENDS = "ends"
    CLAIM_STANDS = "claim stands"
    ONE_RUN = "one run"
    HELD_BY_LIVING = "held by living"  # or by a closing session


ALL_PROMISES = frozenset(Promise)


@attrs.frozen
class SessionModel:
    """The protocol by one set of rules, with so much bad luck. Fences and sessions are numbered as met."""

    rules: Rules
    bounds: Bounds
    promises: frozenset[Promise] = ALL_PROMISES

    @property
    def first(self):
        """One server with two children, and one job."""
        return first_world(self.rules)

    def moves(self, world):
        """All steps from here."""
        return moves(world, self.rules, self.bounds)

    def known(self, world):
        """The world with its fences and sessions numbered anew."""
        return normalised(world)

    def broken(self, world):
        """The promise that does not hold in this world, in words; empty when all do."""
        if world.broken and Promise.ENDS in self.promises:
            return world.broken
        job = world.job
        is_held = job.session != NOBODY and world.sessions[job.session] == DEAD
        if is_held and Promise.HELD_BY_LIVING in self.promises:
            return "a dead session, which is not closing, holds the job"
        runs = [
            (index, child.session, held.fence)
            for index, child in enumerate(world.children)
            if child.status == UP and world.sessions[child.session] == FRESH
            for held in child.held
            if held.phase == RUNNING
        ]
        if len(runs) > 1 and Promise.ONE_RUN in self.promises:
            return "two runs are live under well sessions"
        for index, session, fence in runs if Promise.CLAIM_STANDS in self.promises else ():
            if (job.session, job.fence) != (session, fence):
                return f"child {index} runs fence {fence} under a well session, and its job has been taken"
        return ""

    def is_done(self, world):
        """Tell whether the job has ended."""
        return world.job.is_final
