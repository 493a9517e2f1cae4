"""The protocol as a model for `explorer`, and the conditions that must hold in every world."""

from __future__ import annotations

from enum import StrEnum

import attrs

from .moves import first_world, moves
from .rules import Bounds, Rules
from .state import DEAD, FRESH, NOBODY, RUNNING, UP, normalised


class Promise(StrEnum):
    """The conditions that must hold in every world; ends are checked when they are accepted."""

    ENDS = "ends"
    CLAIM_STANDS = "claim stands"
    ONE_RUN = "one run"
    HELD_BY_LIVING = "held by living"  # or by a closing session


ALL_PROMISES = frozenset(Promise)


@attrs.frozen
class SessionModel:
    """The protocol with one set of rules and a bounded number of failures.

    Fences and sessions are numbered in the order of their appearance.
    """

    rules: Rules
    bounds: Bounds
    promises: frozenset[Promise] = ALL_PROMISES

    @property
    def first(self):
        """The world with one server, two worker processes, and one job."""
        return first_world(self.rules)

    def moves(self, world):
        """Return all moves from this world."""
        return moves(world, self.rules, self.bounds)

    def known(self, world):
        """Return the world with renumbered fences and sessions."""
        return normalised(world)

    def broken(self, world):
        """Return a description of the broken condition in this world, or an empty string."""
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
        """Return whether the job has ended."""
        return world.job.is_final
