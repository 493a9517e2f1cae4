"""The code that the floors on SQL servers share: queries for checks, and running all jobs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from typing_extensions import override

from benchmarks import floor_served
from benchmarks.floor import Claimed, Ended, Pace, drain, in_batches, work

SUMMED = "select state, sum(jobs) from count_deltas group by state having sum(jobs) <> 0"
ROWS = "select state, count(*) from jobs group by state"
ENDS = """
select count(*), coalesce(min(ended_at), 0), coalesce(max(ended_at), 0) from jobs
where state = 'succeeded' and changed_at > {since}
"""


class Floor(floor_served.Floor):
    """An open queue in SQL tables."""

    @abstractmethod
    def exchange(self, ended: Sequence[Ended], limit: int) -> Sequence[Claimed]:
        """Settle the ended jobs and claim up to `limit` ready ones, in one transaction."""

    @abstractmethod
    def query(self, statement: str) -> Sequence[tuple[object, ...]]:
        """Return the rows of a read-only statement."""

    @override
    def drain(self, *, pace: Pace = in_batches) -> None:
        drain(self.exchange, work, pace=pace)

    @override
    def assert_counts(self, **expected: int) -> None:
        summed = {str(state): int(str(jobs)) for state, jobs in self.query(SUMMED)}
        rows = {str(state): int(str(jobs)) for state, jobs in self.query(ROWS)}
        if not summed == rows == expected:
            message = f"expected {expected}, found counts {summed} and rows {rows}"
            raise RuntimeError(message)

    @override
    def read_ends(self, *, since: int) -> tuple[int, int, int]:
        [(ended, first, last)] = self.query(ENDS.format(since=since))
        return int(str(ended)), int(str(first)), int(str(last))
