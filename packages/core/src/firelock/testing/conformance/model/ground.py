"""What the machine's rules stand on: the twin, what was made so far, and how a number chooses from it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TypeVar

from hypothesis import strategies as st

from firelock.ids import derived_id
from firelock.testing.conformance.handles import SECOND, STAMP
from firelock.testing.conformance.model.twin import Pair, Twin
from firelock.values import Holder, JobRecord, NewJob, State

__all__ = ["PICK", "SOME", "Ground"]

_Thing = TypeVar("_Thing")

PICK = st.sampled_from((0, 0, 0, 1, 1, 2, 3, 5, 8))
"""How far back the thing is that is chosen, of those made so far: mostly one of the newest."""

SOME = st.lists(PICK, min_size=1, max_size=3)

QUEUES = ("default", "mail")
# Every job lies beside those of recurring jobs: with partitions the order of a queue holds within one.
_BESIDE = derived_id("model")


class Ground:
    """The state of one run of the machine."""

    twin: Twin

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, NewJob] = {}  # stored once and not pruned, in order
        self.joins: set[str] = (
            set()
        )  # with several parents: whose end decided them last is the storage's choice
        self.holders: list[Holder] = []
        self.claims: list[Pair] = []
        self.fences: dict[tuple[str, str], int] = {}  # newest of each job, by side
        self.tokens: list[tuple[str, int, int]] = []  # owner of the lock, and its token in model and storage
        self.records: dict[str, JobRecord] = {}  # of the step before
        self._stamps = count(STAMP, SECOND)
        self._made = count()

    def stamp(self) -> int:
        """Return the next instant of a caller's clock."""
        return next(self._stamps)

    def instant(self, hours: int) -> int:
        """Return an instant some hours from now that no other job has: "longest due first" is never a tie."""
        return self.twin.half_past(hours) + (self.stamp() - STAMP) // SECOND

    @staticmethod
    def pick(things: Sequence[_Thing], number: int) -> _Thing | None:
        """Return one of the things, None where there are none."""
        return things[-1 - number % len(things)] if things else None

    def picked_ids(self, numbers: Sequence[int]) -> list[str]:
        """Return ids of stored jobs, each once."""
        ids = list(self.jobs)
        return list(dict.fromkeys(one for number in numbers if (one := self.pick(ids, number))))

    def new_job(self, queue: int = 0, **fields: object) -> NewJob:
        """Return a job with a priority of its own, so that the order of a queue is never a tie."""
        number = next(self._made)
        parents = fields.get("parents", ())
        assert isinstance(parents, tuple)
        id = self.twin.real.new_ids(1, _BESIDE)[0]
        if recurring_id := fields.get("recurring_id"):  # as a firing makes it
            id = derived_id(str(recurring_id), id)
        job = NewJob(
            id, f"task{number % 3}", f"[{number}]",
            "json", QUEUES[queue % len(QUEUES)], number * 37 % 201 - 100, State.ENQUEUED, self.stamp(),
        )  # fmt: skip
        for name, value in fields.items():
            setattr(job, name, value)
        return job

    def store(self, jobs: list[NewJob]) -> None:
        """The jobs are stored in both, or refused by both."""
        if self.twin.ask(lambda storage: storage.insert(jobs)) is not None:
            self.jobs.update({job.id: job for job in jobs})
