"""The scenarios, with the units and goals of their figures."""

from __future__ import annotations

import attrs

from benchmarks.peers.redis_peers import PEERS

LIMIT_SECONDS = 1_800


@attrs.frozen
class Figure:
    """A number that a scenario yields."""

    name: str
    unit: str
    at_least: float | None = None
    """The goal for a figure that is better when larger."""
    at_most: float | None = None
    """The goal for a figure that is better when smaller."""
    is_share: bool = False
    """Whether the goal is a share of the floor's figure in the same run, instead of an absolute figure."""

    def is_met(self, *, figure: float, share: float | None) -> bool | None:
        """Return whether the goal is met; None if there is no goal, or no floor to compare with."""
        reached = share if self.is_share else figure
        if reached is None or (self.at_least is None and self.at_most is None):
            return None
        if self.at_least is not None:
            return reached >= self.at_least
        return self.at_most is not None and reached <= self.at_most

    @property
    def goal(self) -> str:
        """The goal as text, empty if there is none."""
        limit = self.at_least if self.at_least is not None else self.at_most
        if limit is None:
            return ""
        return f"{'≥' if self.at_least is not None else '≤'} {limit:g}{' × floor' if self.is_share else ''}"


@attrs.frozen
class Lead:
    """The ratio of Firelock to the best of some peers, in a scenario's first figure."""

    title: str
    over: frozenset[str]
    at_least: float


@attrs.frozen
class Scenario:
    """A scenario and the figures of its contenders; a contender can yield fewer figures."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    leads: tuple[Lead, ...] = ()
    limit_seconds: int = LIMIT_SECONDS
    """The time limit of one contender's run."""


CPU = Figure("cpu_us_per_job", "µs of CPU")
STORAGE_CPU = Figure("storage_us_per_job", "µs of CPU")
MOST = Figure("jobs_per_s", "jobs/s", at_least=0.6, is_share=True)
RATE = Figure("jobs_per_s", "jobs/s")
SINGLE = Figure("jobs_per_s", "jobs/s", at_least=0.7, is_share=True)

LIMITED = "Run jobs with a limit that is never reached, all enqueued in advance"
MEMBERS = "Run the members of one batch, all enqueued in advance"

GROWTH = Scenario(
    "growth",
    "With many finished and many waiting jobs stored, as shares of the figures with few",
    (
        Figure("bulk_share", "share", at_least=0.9),
        Figure("process_share", "share", at_least=0.9),
        Figure("one_share", "share", at_least=0.9),
        Figure("queues_share", "share", at_least=0.9),
        Figure("prune_share", "share", at_least=0.9),
        Figure("bulk_jobs_per_s", "jobs/s"),
        Figure("process_jobs_per_s", "jobs/s"),
        Figure("one_jobs_per_s", "jobs/s"),
        Figure("queues_jobs_per_s", "jobs/s"),
        Figure("prune_jobs_per_s", "jobs/s"),
        Figure("slowest_list_ms", "ms", at_most=100),
    ),
    limit_seconds=7_200,
)

REST = Scenario(
    "rest",
    "An idle server",
    (
        Figure("calls_per_s", "calls/s", at_most=2),
        Figure("commands_per_s", "commands/s"),
        Figure("cpu_percent", "% of a core", at_most=1),
        Figure("processes", ""),
        Figure("rss_mib", "MiB"),
        Figure("pss_mib", "MiB"),
        Figure("largest_rss_mib", "MiB", at_most=60),
        Figure("beyond_driver_mib", "MiB", at_most=12),
    ),
)

PROCESSES = Scenario(
    "processes",
    "Jobs that compute for 1 ms: two processes on two cores, compared with one process on one",
    (
        Figure("two_share", "share", at_least=1.7),
        Figure("one_jobs_per_s", "jobs/s"),
        Figure("two_jobs_per_s", "jobs/s"),
    ),
)

LATENCY = (Figure("p50_ms", "ms"), Figure("p99_ms", "ms"), Figure("max_ms", "ms"))
LATENCY_BUSY = Scenario("latency_busy", "The same with 200 jobs per second at random times", LATENCY)

SERVED_FEATURES = (
    Scenario("limited", LIMITED, (RATE, CPU, STORAGE_CPU)),
    Scenario("members", MEMBERS, (RATE, CPU, STORAGE_CPU)),
)

SQLITE = (
    Scenario("enqueue_bulk_100", "Enqueue in transactions of 100", (MOST, CPU)),
    Scenario("enqueue_bulk", "Enqueue in transactions of 500", (MOST, CPU)),
    Scenario("enqueue_one", "Enqueue one by one, with a commit each", (SINGLE, CPU)),
    Scenario(
        "process", "Run jobs that do nothing, all enqueued in advance", (MOST, attrs.evolve(CPU, at_most=25))
    ),
    Scenario("limited", LIMITED, (RATE, CPU)),
    Scenario("members", MEMBERS, (RATE, CPU)),
    Scenario(
        "commits",
        "Commits per job",
        (
            Figure("enqueue_one", "commits", at_most=1),
            Figure("enqueue_bulk", "commits", at_most=0.01),
            Figure("process", "commits", at_most=0.05),
        ),
    ),
    Scenario(
        "latency",
        "From the call to the start, on an idle server",
        (Figure("p50_ms", "ms", at_most=3), Figure("p99_ms", "ms", at_most=10), Figure("max_ms", "ms")),
    ),
    GROWTH,
    REST,
    PROCESSES,
    Scenario(
        "startup",
        "Starting",
        (
            Figure("bare_ms", "ms"),
            Figure("import_ms", "ms"),
            Figure("added_ms", "ms", at_most=40),
            Figure("help_ms", "ms", at_most=200),
            Figure("help_cpu_ms", "ms of CPU", at_most=200),
            Figure("driver_cpu_ms", "ms of CPU"),
            Figure("command_cpu_ms", "ms of CPU"),
            Figure("command_added_cpu_ms", "ms of CPU", at_most=200),
            Figure("first_job_cpu_ms", "ms of CPU"),
            Figure("first_job_added_cpu_ms", "ms of CPU", at_most=400),
        ),
    ),
)

REDIS = (
    Scenario("enqueue_bulk_100", "Enqueue in calls of 100", (MOST, CPU, STORAGE_CPU)),
    Scenario("enqueue_bulk", "Enqueue in calls of 500", (MOST, CPU, STORAGE_CPU)),
    Scenario("enqueue_one", "Enqueue one by one, with a round trip each", (SINGLE, CPU, STORAGE_CPU)),
    Scenario(
        "process",
        "Run jobs that do nothing, all enqueued in advance",
        (MOST, attrs.evolve(CPU, at_most=19), STORAGE_CPU),
        leads=(
            Lead(
                "the fastest Python peer that acknowledges",
                over=frozenset(
                    name
                    for name, peer in PEERS.items()
                    if peer.is_acknowledging and peer.language == "Python"
                ),
                at_least=10,
            ),
            Lead("Sidekiq", over=frozenset({"sidekiq"}), at_least=2),
        ),
    ),
    *SERVED_FEATURES,
    Scenario(
        "footprint",
        "Cost of a job: round trips and bytes on the wire, commands and memory of the server",
        (
            Figure("one_trips", "trips", at_most=1.01),
            Figure("one_bytes", "bytes"),
            Figure("one_commands", "commands"),
            Figure("bulk_trips", "trips", at_most=0.0025),
            Figure("bulk_bytes", "bytes"),
            Figure("bulk_commands", "commands"),
            Figure("process_trips", "trips", at_most=0.05),
            Figure("process_bytes", "bytes", at_most=600),
            Figure("process_commands", "commands"),
            Figure("waiting_bytes", "bytes stored"),
            Figure("finished_bytes", "bytes stored"),
        ),
    ),
    Scenario(
        "latency",
        "From the call to the start, on an idle server",
        (Figure("p50_ms", "ms", at_most=0.6), Figure("p99_ms", "ms", at_most=2), Figure("max_ms", "ms")),
    ),
    LATENCY_BUSY,
    GROWTH,
    REST,
    PROCESSES,
)

SQL_REST = attrs.evolve(REST, figures=(*REST.figures, Figure("commits_per_s", "commits/s")))

SQL_BULK = (
    Scenario("enqueue_bulk_100", "Enqueue in transactions of 100", (MOST, CPU, STORAGE_CPU)),
    Scenario("enqueue_bulk", "Enqueue in transactions of 500", (MOST, CPU, STORAGE_CPU)),
    Scenario("enqueue_one", "Enqueue one by one, with a commit each", (SINGLE, CPU, STORAGE_CPU)),
)


def footprint(*, trips: int) -> Scenario:
    """Return the scenario of a database that needs this number of round trips per storing transaction."""
    return Scenario(
        "footprint",
        "Cost of a job: round trips and bytes on the wire, commits, bytes of the database's files",
        (
            Figure("one_trips", "trips", at_most=trips * 1.05),
            Figure("one_bytes", "bytes"),
            Figure("one_commits", "commits", at_most=1.05),
            Figure("bulk_trips", "trips", at_most=trips * 0.0025),
            Figure("bulk_bytes", "bytes"),
            Figure("bulk_commits", "commits", at_most=0.0025),
            Figure("process_trips", "trips", at_most=0.05),
            Figure("process_bytes", "bytes", at_most=600),
            Figure("process_commits", "commits", at_most=0.05),
            Figure("waiting_bytes", "bytes stored"),
            Figure("finished_bytes", "bytes stored"),
        ),
    )


CHURN = (
    Figure("jobs_per_s_share", "share"),
    Figure("storage_us_per_job_share", "share"),
    Figure("worker_us_per_job_share", "share"),
    Figure("claim_ms_share", "share"),
    Figure("first_jobs_per_s", "jobs/s"),
    Figure("last_jobs_per_s", "jobs/s"),
    Figure("first_storage_us_per_job", "µs of CPU"),
    Figure("last_storage_us_per_job", "µs of CPU"),
    Figure("first_worker_us_per_job", "µs of CPU"),
    Figure("last_worker_us_per_job", "µs of CPU"),
    Figure("first_claim_ms", "ms"),
    Figure("last_claim_ms", "ms"),
    Figure("dead_rows", "rows"),
    Figure("kept_transactions", ""),
    Figure("done_share", "share", at_least=1),
)

POSTGRESQL = (
    *SQL_BULK,
    Scenario(
        "process",
        "Run jobs that do nothing, all enqueued in advance",
        (MOST, attrs.evolve(CPU, at_most=85), STORAGE_CPU),
        leads=(
            Lead("PgQueuer", over=frozenset({"pgqueuer"}), at_least=2),
            Lead("PgQueuer at its best", over=frozenset({"pgqueuer of 100"}), at_least=1),
        ),
    ),
    *SERVED_FEATURES,
    footprint(trips=1),
    Scenario(
        "latency",
        "From the call to the start, on an idle server",
        (Figure("p50_ms", "ms", at_most=2.5), Figure("p99_ms", "ms", at_most=6), Figure("max_ms", "ms")),
    ),
    LATENCY_BUSY,
    GROWTH,
    Scenario(
        "churn",
        "The last tenth of an hour's jobs, 1.8 million, as a share of the first",
        CHURN,
        limit_seconds=5_400,
    ),
    Scenario(
        "churn_kept",
        "The same while a transaction keeps its snapshot from before the first job",
        CHURN,
        limit_seconds=5_400,
    ),
    SQL_REST,
    PROCESSES,
)

MARIADB = (
    *SQL_BULK,
    Scenario("process", "Run jobs that do nothing, all enqueued in advance", (MOST, CPU, STORAGE_CPU)),
    *SERVED_FEATURES,
    footprint(trips=4),
    Scenario("latency", "From the call to the start, on an idle server that polls", LATENCY),
    LATENCY_BUSY,
    SQL_REST,
    PROCESSES,
)

BY_STORAGE = {"sqlite": SQLITE, "redis": REDIS, "postgresql": POSTGRESQL, "mariadb": MARIADB}
