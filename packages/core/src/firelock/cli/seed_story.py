"""A year of a shop's jobs, written into a storage through the verbs of its contract alone."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import groupby
from random import Random
from typing import TYPE_CHECKING

import attrs

from firelock.cli.seed_agenda import Agenda, Moment
from firelock.cli.seed_ends import Ends
from firelock.cli.seed_looks import Looks
from firelock.cli.seed_notes import Notes
from firelock.cli.seed_past import Past
from firelock.cli.seed_plan import Sizes, Year
from firelock.cli.seed_present import Present
from firelock.cli.seed_recurring import Definitions
from firelock.cli.seed_rhythm import DAY, Rhythm
from firelock.cli.seed_rollups import Rollups
from firelock.cli.seed_stage import Stage

if TYPE_CHECKING:
    from firelock.storage import Storage
    from firelock.task import TaskInfo

__all__ = ["RANDOM_SEED", "Seeded", "seed"]

RANDOM_SEED = 20_261_124
_BURSTS = 16_000  # about so many in a year: as fine as it may be without costing minutes
_SMALLEST, _LARGEST = 12, 250  # jobs of a burst; fewer where there are few in all
_FEW = 6_000
_NOTED_FOR = 3 * DAY  # so long ago at most a job ended that has a log
_NOTED_FULLY = 100_000  # of more jobs only younger ones have one: some hundred, however many there are


@attrs.frozen
class Seeded:
    """How far a seed has come."""

    jobs: int
    rollups: int = 0
    recurring: int = 0


def seed(
    storage: Storage,
    infos: list[TaskInfo],
    jobs: int,
    *,
    random_seed: int = RANDOM_SEED,
    now: int | None = None,
) -> Generator[Seeded]:
    """So many jobs of a year are in the storage when the last value was taken; yield how far it is.

    Nobody else may work on the storage meanwhile. A consumer that closes it early leaves whole jobs that
    nobody holds. The same number and `now` tell the same story; ids, and what the storage's clock stamps, are
    new each time.
    """
    stage = Stage(storage, now)
    with stage.opened():
        yield from _Story(stage, infos, Sizes.of(jobs), Random(random_seed)).write()  # noqa: S311 - a story


class _Story:
    def __init__(self, stage: Stage, infos: list[TaskInfo], sizes: Sizes, random: Random) -> None:
        self._stage = stage
        self._sizes = sizes
        looks = Looks(infos)
        self._definitions = Definitions(looks, stage.now, sizes.runs, random)
        self._rollups = Rollups(stage.now)
        notes = Notes(stage.now, _NOTED_FOR * _NOTED_FULLY // max(_NOTED_FULLY, sizes.jobs))
        rhythm = Rhythm(stage.now, sizes.jobs - sizes.present - len(self._definitions.runs))
        bursts = list(rhythm.bursts(random, _burst_size(sizes.jobs)))
        year = Year(rhythm, bursts, looks, sizes, random)
        runs = sorted(self._definitions.runs, key=lambda run: run.instant)
        moments = [Moment(burst.at, burst) for burst in bursts]
        moments += [
            Moment(at + 20_000, runs=tuple(same)) for at, same in groupby(runs, key=lambda run: run.instant)
        ]
        moments.sort(key=lambda moment: moment.at)
        agenda = Agenda(moments)
        self._moments = len(agenda)
        self._ends = Ends(stage.now, agenda, rollups=self._rollups, notes=notes, random=random)
        self._past = Past(stage, year, agenda, self._ends, random=random)
        self._present = Present(stage, looks, sizes, notes, random)

    def write(self) -> Iterator[Seeded]:
        """All is stored: what has ended, then what has not, then what was counted."""
        for place in range(self._moments):
            self._past.write(place)
            yield Seeded(self._past.made)
        made = self._past.made
        for step in (self._present.run, self._present.enqueue, self._present.schedule, self._wait):
            made += step()
            yield Seeded(made)
        self._definitions.write(self._stage.storage)
        self._present.pause()
        for rows in self._rollups.write(self._stage.storage):
            yield Seeded(made, rows, len(self._definitions))
        self._stage.renew()

    def _wait(self) -> int:
        return self._present.wait(self._ends.failed)


def _burst_size(jobs: int) -> int:
    smallest = max(2, _SMALLEST * min(jobs, _FEW) // _FEW)
    return min(_LARGEST, max(smallest, jobs // _BURSTS))
