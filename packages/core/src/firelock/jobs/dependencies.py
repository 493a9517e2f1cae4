"""The relations of a new job to other jobs: to its parents, its batch, its caller and its inputs."""

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
    """The relations of a new job to other jobs; most jobs have none."""

    edges: Mapping[str, Edge] = attrs.Factory(dict)  # dependencies by the id of the job that it waits for
    inputs: tuple[Input, ...] = ()
    batch_id: str | None = None
    caller_id: str | None = None

    @property
    def colocated_with(self) -> str | None:
        """The id whose partition must contain the job, if the storage has partitions."""
        return self.batch_id or self.caller_id or next(iter(self.edges), None)

    @property
    def is_child(self) -> bool:
        """Whether another job determines when this job runs, or waits for it."""
        return bool(self.edges) or self.caller_id is not None

    @cached_property
    def text(self) -> str | None:
        """The relations in their stored form; members that are added together share one string."""
        return write_relations(Relations(self.batch_id, self.caller_id, self.inputs))

    def bind(self, job: NewJob) -> None:
        """Set these relations on the job."""
        job.relations_json = self.text
        if self.edges:
            job.parents = tuple(self.edges.values())
            job.state, job.due_at, job.nominal_at = State.AWAITING, None, None
            job.reason = waiting_words(job.parents)


@lru_cache(maxsize=64)
def member_of(batch_id: str) -> Dependencies:
    """Return the relations of a batch member; all members of one batch share them and their stored string."""
    return Dependencies(batch_id=batch_id)


def child_of(parent_id: str, options: CallOptions) -> Dependencies:
    """Return the relations of a job that continues another one."""
    _check_untimed(options)
    return Dependencies({parent_id: Edge(parent_id, options.on or On.SUCCEEDED)})


def after_sources(
    options: CallOptions, dependencies: Dependencies, transaction: Callable[[], object | None]
) -> Dependencies:
    """Return the dependencies, including the jobs that the options name in `after`.

    `transaction` returns the transaction in which the new job will be stored.

    Raises:
        ConfigurationError: If the job has its own time, or `on` is given without a job to wait for.
        DuplicateJob, JobNotCommitted: If the new job cannot wait for one of these jobs.
    """
    edges, on = dict(dependencies.edges), options.on or On.SUCCEEDED
    for source in options.after or ():
        source_id = source.as_source(dependencies.batch_id, transaction)
        edges[source_id] = Edge(source_id, on)
    if edges:
        _check_untimed(options)
    elif options.on is not None:
        raise ConfigurationError(
            f"on={str(options.on)!r} is only for a job that waits for another job; use it with job.then(…) "
            "or after=."
        )
    return attrs.evolve(dependencies, edges=check_bounded(edges))


def with_outputs(
    options: CallOptions,
    dependencies: Dependencies,
    references: Sequence[Reference],
    transaction: Callable[[], object | None],
) -> Dependencies:
    """Return the dependencies, including the jobs whose outputs are arguments of the new job.

    `transaction` returns the transaction in which the new job will be stored.

    Raises:
        ConfigurationError: If the job has its own time, or waits for a different outcome of one of these
            jobs.
        DuplicateJob, JobNotCommitted: If the new job cannot wait for one of these jobs.
    """
    _check_untimed(options)
    edges = dict(dependencies.edges)
    for one in references:
        source_id = one.source.as_source(dependencies.batch_id, transaction)
        other = edges.get(source_id)
        if other is not None and other.on is not On.SUCCEEDED:
            raise ConfigurationError(
                f"on={str(other.on)!r} waits until job {source_id} has {_ENDS[other.on]}, but its output "
                "exists only after it has succeeded. Remove on=, or do not pass the output."
            )
        edges[source_id] = Edge(source_id, On.SUCCEEDED, carries=True)
    inputs = tuple(Input(one.source.id, one.path) for one in references)
    return attrs.evolve(dependencies, edges=check_bounded(edges), inputs=inputs)


def _check_untimed(options: CallOptions) -> None:
    if options.delay is not None or options.at is not None:
        raise ConfigurationError(
            "A job that waits for other jobs runs after these have ended. Do not pass delay or at together "
            "with then(), after= or an output among the arguments."
        )


def check_bounded(edges: Mapping[str, Edge], *, is_batch: bool = False) -> Mapping[str, Edge]:
    """Return the dependencies of a job or batch, by id.

    Raises:
        ConfigurationError: If there are more than 100 dependencies.
    """
    if len(edges) <= MOST_SOURCES:
        return edges
    if is_batch:
        raise ConfigurationError(
            f"A batch can wait for at most {MOST_SOURCES} jobs, got {len(edges)}. Put them in another batch, "
            "and wait for that batch: after=batch."
        )
    raise ConfigurationError(
        f"A job can wait for at most {MOST_SOURCES} other jobs, got {len(edges)}. Put them in a batch, and "
        "wait for the batch: using(after=batch), and batch.results(task) inside the job."
    )


def waiting_words(edges: Sequence[Edge]) -> str:
    """Return why a job or batch with these dependencies has not started.

    The string names the first dependency and the number of others.
    """
    more = f", and for {len(edges) - 1} more" if len(edges) > 1 else ""
    return f"{awaiting_reason(edges[0].on, edges[0].parent_id)}{more}"
