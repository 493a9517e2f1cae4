"""The pages: a module each, with its routes and views, a template and a file of texts of the same name.

Read `job` first: it shows most of what a page does, and `stream` what the job emits. `jobs` and `recurring`
have lists and forms as well. The others as the `navigation` has them: `overview`, `batches` (one of them:
`batch`), `failures`, `queues`, `limits`, `tasks`, `servers`, `activity`, `system`, `settings`; beside it
`search`, and `approvals`, which a link opens for people who see nothing else. What only pages use: `charts`,
`flow_graph`, `tracebacks` and `suggestions`.
"""

from __future__ import annotations

from firelock_dashboard.pages import (
    activity,
    batch,
    batches,
    failures,
    job,
    jobs,
    limits,
    navigation,
    overview,
    queues,
    recurring,
    search,
    servers,
    settings,
    stream,
    system,
    tasks,
)

ROUTES = (
    *overview.ROUTES,
    *navigation.ROUTES,
    *search.ROUTES,
    *jobs.ROUTES,
    *job.ROUTES,
    *batches.ROUTES,
    *batch.ROUTES,
    *stream.ROUTES,
    *failures.ROUTES,
    *queues.ROUTES,
    *limits.ROUTES,
    *recurring.ROUTES,
    *activity.ROUTES,
    *servers.ROUTES,
    *settings.ROUTES,
    *system.ROUTES,
    *tasks.ROUTES,
)
