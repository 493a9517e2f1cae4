"""The first world, and every move from a world.

Regular moves are distinguished from failures and from an operator's actions: from every world, regular moves
alone must lead to an end.
"""

from __future__ import annotations

from .children import child_moves
from .state import ENQUEUED, NO_FENCE, NOBODY, UP, Job, World
from .supervisor import started, supervisor_moves
from .surroundings import network_moves, operator_moves, time_moves


def first_world(rules):
    """Return the world with one enqueued job, a server with two worker processes, and no call in transit."""
    job = Job(ENQUEUED, NOBODY, NO_FENCE, attempt=0, crashes=0, ended=False)
    nothing = World(job, sessions=(), children=(), supervisor=False, wire=(), broken="")
    return started(nothing, rules)


def moves(world, rules, bounds):
    """Yield all moves from this world."""
    for index, child in enumerate(world.children):
        if child.status == UP:
            yield from child_moves(world, index, rules, bounds)
    yield from supervisor_moves(world, rules, bounds)
    yield from network_moves(world, rules, bounds)
    yield from time_moves(world, rules, bounds)
    if bounds.operator:
        yield from operator_moves(world, rules)
