"""Explores every world that steps lead to, and says whether all are safe and can end."""

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
    """What exploring has shown; `trail` is the shortest way to what is wrong."""

    verdict: Verdict
    states: int
    reason: str = ""
    trail: tuple[str, ...] = ()

    def __str__(self):
        """Return it as people read it."""
        way = f": {self.reason}\n    {' > '.join(self.trail)}" if self.trail else ""
        return f"{self.verdict}, {self.states:,} states{way}"


def explore(model):
    """Return what all worlds of a model show, breadth first.

    The model has `first`, `moves(world)`, which yields name, whether nothing goes wrong by it, and the
    world behind it, `broken(world)`, which says what does not hold, and `is_done(world)`. Safe means that
    nothing is broken anywhere, and that from every world good moves alone lead to one that is done.
    """
    worlds, came_from, number = [model.first], [None], {model.first: 0}
    led_by_good: list[list[int]] = [[]]
    for here, world in enumerate(worlds):
        if reason := model.broken(world):
            return Finding(Verdict.UNSAFE, len(worlds), reason, _trail(came_from, here))
        for name, is_good, after in model.moves(world):
            there = number.setdefault(after, len(worlds))
            if there == len(worlds):
                worlds.append(after)
                came_from.append((here, name))
                led_by_good.append([])
            if is_good:
                led_by_good[there].append(here)
    stuck = _first_stuck(model, worlds, led_by_good)
    if stuck is None:
        return Finding(Verdict.SAFE, len(worlds))
    return Finding(Verdict.STUCK, len(worlds), "nothing good leads to an end", _trail(came_from, stuck))


def wander(model, chance, walks, steps=400):
    """Return what so many random walks show: some ill luck first, then good moves alone, to an end."""
    met = 0
    for _ in range(walks):
        world, luck, trail = model.first, chance.randint(5, 80), []
        for step in range(steps):
            if step >= luck and model.is_done(world):
                break
            some = [(name, after) for name, is_good, after in model.moves(world) if is_good or step < luck]
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


def _trail(came_from, here):
    names = []
    while came_from[here] is not None:
        here, name = came_from[here]
        names.append(name)
    return tuple(reversed(names))


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
