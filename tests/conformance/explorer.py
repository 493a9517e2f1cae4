"""Exploration of every world that the moves of a model can reach: whether all are safe and can end.

A model has four members. `first` is the first world. `moves(world)` yields the moves: a name, whether it is a
regular move, and the world after it. `broken(world)` describes a broken condition. `is_done(world)` returns
whether the world is an end. If worlds differ only by names, the model also has `known(world)`, which returns
a form in which they are equal.

A regular move happens by itself if nothing fails. All other moves are failures and human actions.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum

import attrs


class Verdict(StrEnum):
    SAFE = "safe"
    UNSAFE = "unsafe"
    STUCK = "stuck"


@attrs.frozen
class Finding:
    """The result of an exploration; `trail` is the shortest way to the problem, move by move."""

    verdict: Verdict
    states: int
    reason: str = ""
    trail: tuple[str, ...] = ()

    def __str__(self):
        """Return the finding as text."""
        way = f": {self.reason}\n    {' > '.join(self.trail)}" if self.trail else ""
        return f"{self.verdict}, {self.states:,} states{way}"


def explore(model):
    """Return the result of exploring all worlds of a model breadth first, up to the first broken one.

    Safe means that no world is broken, and that from every world regular moves alone lead to an end.
    """
    known = getattr(model, "known", _as_it_is)
    worlds, came_from = [known(model.first)], [0]
    number = {worlds[0]: 0}
    led_by_good: list[list[int]] = [[]]
    for here, world in enumerate(worlds):
        if model.broken(world):
            trail, last = _trail(model, known, worlds, came_from, here)
            return Finding(Verdict.UNSAFE, len(worlds), model.broken(last), trail)
        for _, is_good, after in model.moves(world):
            same = known(after)
            there = number.setdefault(same, len(worlds))
            if there == len(worlds):
                worlds.append(same)
                came_from.append(here)
                led_by_good.append([])
            if is_good:
                led_by_good[there].append(here)
    stuck = _first_stuck(model, worlds, led_by_good)
    if stuck is None:
        return Finding(Verdict.SAFE, len(worlds))
    trail, _ = _trail(model, known, worlds, came_from, stuck)
    return Finding(Verdict.STUCK, len(worlds), "nothing good leads to an end any more", trail)


def wander(model, chance, walks, moves=400):
    """Return the result of random walks, which begin with some failures and then take only regular moves."""
    met = 0
    for _ in range(walks):
        world, luck, trail = model.first, chance.randint(5, 80), []
        for number in range(moves):
            if number >= luck and model.is_done(world):
                break
            some = [(name, after) for name, is_good, after in model.moves(world) if is_good or number < luck]
            if not some:
                break
            name, world = chance.choice(some)
            trail.append(name)
            met += 1
            if reason := model.broken(world):
                return Finding(Verdict.UNSAFE, met, reason, tuple(trail))
        if not model.is_done(world):
            return Finding(Verdict.STUCK, met, "the walk does not end", tuple(trail))
    return Finding(Verdict.SAFE, met)


def _as_it_is(world):
    return world


def _trail(model, known, worlds, came_from, last):
    """Walk the shortest way again, to get the moves and the description with the names used there."""
    way = [last]
    while way[-1]:
        way.append(came_from[way[-1]])
    world, words = model.first, []
    for there in reversed(way[:-1]):
        move, world = next(
            (move, after) for move, _, after in model.moves(world) if known(after) == worlds[there]
        )
        words.append(move)
    return tuple(words), world


def _first_stuck(model, worlds, led_by_good):
    ends = [here for here, world in enumerate(worlds) if model.is_done(world)]
    can_end, waiting = bytearray(len(worlds)), deque(ends)
    for here in ends:
        can_end[here] = 1
    while waiting:
        for before in led_by_good[waiting.popleft()]:
            if not can_end[before]:
                can_end[before] = 1
                waiting.append(before)
    stuck = can_end.find(0)
    return None if stuck < 0 else stuck
