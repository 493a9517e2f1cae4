"""What a new job is to others: continuation, member of a batch, call of another job, taker of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import attrs

from firelock.errors import ConfigurationError
from firelock.model.dependencies import Edge, Input, On, Relations, write_relations
from firelock.model.job import NewJob
from firelock.model.lifecycle import awaiting_reason
from firelock.model.state import State
from firelock.options import MOST_SOURCES, CallOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from firelock.arguments.references import Reference

_ENDS = {On.FAILED: "failed", On.DELETED: "been deleted", On.FINISHED: "ended"}


@attrs.frozen
class Dependencies:
    """What a new job is to others; most are nothing."""

    edges: Mapping[str, Edge] = attrs.Factory(dict)  # by the id of what it waits for
    inputs: tuple[Input, ...] = ()
    batch_id: str | None = None
    caller_id: str | None = None

    @property
    def beside(self) -> str | None:
        """What the job lies beside where a storage has partitions."""
        return self.batch_id or self.caller_id or next(iter(self.edges), None)

    @property
    def is_child(self) -> bool:
        """Tell whether somebody else says when it runs, or waits for it."""
        return bool(self.edges) or self.caller_id is not None

    @cached_property
    def text(self) -> str | None:
        """What is stored of it; the members that are added together share one."""
        return write_relations(Relations(self.batch_id, self.caller_id, self.inputs))

    def bind(self, job: NewJob) -> None:
        """The job is tied so."""
        job.relations_json = self.text
        if self.edges:
            job.parents = tuple(self.edges.values())
            job.state, job.due_at, job.nominal_at = State.AWAITING, None, None
            job.reason = waiting_words(job.parents)


@lru_cache(maxsize=64)
def member_of(batch_id: str) -> Dependencies:
    """Return the dependencies of a member; those of one batch share it, and its text."""
    return Dependencies(batch_id=batch_id)


def child_of(parent_id: str, options: CallOptions) -> Dependencies:
    """Return the dependencies of a job that continues another one."""
    _check_untimed(options)
    return Dependencies({parent_id: Edge(parent_id, options.on or On.SUCCEEDED)})


def after_sources(
    options: CallOptions, dependencies: Dependencies, transaction: Callable[[], object | None]
) -> Dependencies:
    """Return the dependencies with what the job, to be stored in that transaction, is after.

    Raises:
        ConfigurationError: it has a time of its own, or an end to wait for and nothing that ends.
        DuplicateJob, JobNotCommitted: it cannot wait for one of them.
    """
    edges, on = dict(dependencies.edges), options.on or On.SUCCEEDED
    for source in options.after or ():
        source_id = source.as_source(dependencies.batch_id, transaction)
        edges[source_id] = Edge(source_id, on)
    if edges:
        _check_untimed(options)
    elif options.on is not None:
        raise ConfigurationError(
            f"on={str(options.on)!r} says what a continuation waits for; use it with job.then(…), or "
            "with after=."
        )
    return attrs.evolve(dependencies, edges=check_bounded(edges))


def with_outputs(
    options: CallOptions,
    dependencies: Dependencies,
    references: Sequence[Reference],
    transaction: Callable[[], object | None],
) -> Dependencies:
    """Return the dependencies with the jobs whose output the job, to be stored in that transaction, takes.

    Raises:
        ConfigurationError: it has a time of its own, or waits for another end of one of them.
        DuplicateJob, JobNotCommitted: it cannot wait for one of them.
    """
    _check_untimed(options)
    edges = dict(dependencies.edges)
    for one in references:
        source_id = one.source.as_source(dependencies.batch_id, transaction)
        other = edges.get(source_id)
        if other is not None and other.on is not On.SUCCEEDED:
            raise ConfigurationError(
                f"on={str(other.on)!r} waits for job {source_id} to have {_ENDS[other.on]}, and its "
                "output is there only when it has succeeded. Leave out one of the two."
            )
        edges[source_id] = Edge(source_id, On.SUCCEEDED, carries=True)
    inputs = tuple(Input(one.source.id, one.path) for one in references)
    return attrs.evolve(dependencies, edges=check_bounded(edges), inputs=inputs)


def _check_untimed(options: CallOptions) -> None:
    if options.delay is not None or options.at is not None:
        raise ConfigurationError(
            "A job that waits for others runs when these have ended; delay and at cannot be given with "
            "then(), with after=, or with an output among the arguments."
        )


def check_bounded(edges: Mapping[str, Edge], *, is_batch: bool = False) -> Mapping[str, Edge]:
    """Return what a job, or a batch, waits for, by id.

    Raises:
        ConfigurationError: these are too many.
    """
    if len(edges) <= MOST_SOURCES:
        return edges
    if is_batch:
        raise ConfigurationError(
            f"A batch is after at most {MOST_SOURCES} jobs, not {len(edges)}; put them in one of their own."
        )
    raise ConfigurationError(
        f"A job waits for at most {MOST_SOURCES} others, not {len(edges)}. Put them in a batch and "
        "wait for that: using(after=batch), and batch.results(task) inside the job."
    )


def waiting_words(edges: Sequence[Edge]) -> str:
    """Return why a job, or a batch, that waits for these does not start yet: the first, and how many more."""
    more = f", and for {len(edges) - 1} more" if len(edges) > 1 else ""
    return f"{awaiting_reason(edges[0].on, edges[0].parent_id)}{more}"
