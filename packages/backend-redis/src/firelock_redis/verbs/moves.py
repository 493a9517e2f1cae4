"""Moves of waiting jobs to another queue or priority."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from firelock.storage import Applied, Move, Moved
from firelock_redis.connections.database import RedisVerbs
from firelock_redis.layout.encoding import APPLIED_BY_DIGIT, LETTERS, number_word, quoted
from firelock_redis.layout.words import MovedJob

_AT_ONCE = 250  # maximum number of jobs that one script call moves


class MoveVerbs(RedisVerbs):
    """The verb that moves a waiting job."""

    @override
    def move(self, moves: Sequence[Move]) -> list[Applied]:
        """See `Storage.move`. This takes one round trip per 250 jobs of a partition."""
        places = self._partitions.by_partition(range(len(moves)), lambda at: moves[at].job_id)
        results = [Applied.REFUSED] * len(moves)
        for partition, here in places.items():
            for first in range(0, len(here), _AT_ONCE):
                some = here[first : first + _AT_ONCE]
                arguments: list[Any] = [Moved.TO_QUEUE.value]
                for place in some:
                    arguments += _words(moves[place])
                letters: str = self._run("moves", partition, *arguments)
                for place, letter in zip(some, letters, strict=True):
                    results[place] = APPLIED_BY_DIGIT[letter]
            self._turns.note(partition)  # a queue might have work in this partition now
        return results


def _words(move: Move) -> MovedJob:
    """Return a move as arguments of scripts/moves.lua."""
    return MovedJob(
        id=move.job_id,
        states="".join(LETTERS[state] for state in move.from_states),
        queue=move.queue or "",
        priority=number_word(move.priority),
        at=move.at,
        reason=quoted(move.reason),
    )
