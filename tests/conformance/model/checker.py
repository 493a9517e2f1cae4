"""Explores every world a variant can reach, and says whether it is safe, unsafe or can get stuck."""

from __future__ import annotations

from collections import deque
from enum import StrEnum

import attrs

from .moves import first_world, moves
from .state import FRESH, RUNNING, UP, normalised


class Verdict(StrEnum):
    SAFE = "safe"
    UNSAFE = "unsafe"
    STUCK = "stuck"


class Promise(StrEnum):
    """What must hold in every world; the ends are judged where they are accepted."""

    ENDS = "ends"
    CLAIM_STANDS = "claim stands"
    ONE_RUN = "one run"


ALL_PROMISES = frozenset(Promise)


@attrs.frozen
class Finding:
    """What exploring has shown. `trail` tells the shortest way to what is wrong, step by step."""

    verdict: Verdict
    states: int
    reason: str = ""
    trail: tuple[str, ...] = ()


def explore(rules, bounds, promises=ALL_PROMISES):
    """The finding for one variant, after all its worlds or up to the first broken promise, breadth first.

    Safe means that every promise holds in every world, and that ordinary steps lead from each to an end.
    """
    first = normalised(first_world(rules))
    number = {first: 0}
    worlds = [first]
    came_from = [0]
    ordinary_from = [[]]
    for here, world in enumerate(worlds):
        if broken_promise(world, promises):
            trail, last = _trail(rules, bounds, worlds, came_from, here)
            return Finding(Verdict.UNSAFE, len(worlds), broken_promise(last, promises), trail)
        for _, is_ordinary, after in moves(world, rules, bounds):
            known = normalised(after)
            there = number.setdefault(known, len(worlds))
            if there == len(worlds):
                worlds.append(known)
                came_from.append(here)
                ordinary_from.append([])
            if is_ordinary:
                ordinary_from[there].append(here)
    stuck = _first_stuck(worlds, ordinary_from)
    if stuck is None:
        return Finding(Verdict.SAFE, len(worlds))
    trail, _ = _trail(rules, bounds, worlds, came_from, stuck)
    return Finding(Verdict.STUCK, len(worlds), "no ordinary step leads to an end any more", trail)


def broken_promise(world, promises=ALL_PROMISES):
    """The promise that does not hold in this world, in words; empty when all do."""
    if world.broken and Promise.ENDS in promises:
        return world.broken
    job = world.job
    runs = [
        (index, child.session, held.fence)
        for index, child in enumerate(world.children)
        if child.status == UP and world.sessions[child.session] == FRESH
        for held in child.held
        if held.phase == RUNNING
    ]
    if len(runs) > 1 and Promise.ONE_RUN in promises:
        return "two runs are live under well sessions"
    for index, session, fence in runs if Promise.CLAIM_STANDS in promises else ():
        if (job.session, job.fence) != (session, fence):
            return f"child {index} runs fence {fence} under a well session and the job has been taken from it"
    return ""


def _first_stuck(worlds, ordinary_from):
    ends = [here for here, world in enumerate(worlds) if world.job.is_final]
    leads_to_end = bytearray(len(worlds))
    for here in ends:
        leads_to_end[here] = 1
    waiting = deque(ends)
    while waiting:
        for before in ordinary_from[waiting.popleft()]:
            if not leads_to_end[before]:
                leads_to_end[before] = 1
                waiting.append(before)
    stuck = leads_to_end.find(0)
    return None if stuck < 0 else stuck


def _trail(rules, bounds, worlds, came_from, last):
    """Walks the shortest way again without renumbering, so that fences and sessions keep their names."""
    way = [last]
    while way[-1]:
        way.append(came_from[way[-1]])
    world = first_world(rules)
    words = []
    for there in reversed(way[:-1]):
        step, world = next(
            (step, after)
            for step, _, after in moves(world, rules, bounds)
            if normalised(after) == worlds[there]
        )
        words.append(step)
    return tuple(words), world
