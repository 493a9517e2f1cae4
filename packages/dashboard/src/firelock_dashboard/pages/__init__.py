"""The pages: modules with routes and views, each with a template and a file of texts of the same name.

To write a page, copy `system`, which is short; `job` has most elements that a page can have. `stream` shows
the output of a job. `jobs` and `recurring` also have lists and forms. The other pages, in the order of the
`navigation`, are `overview`, `batches` (and `batch` for a single one), `failures`, `queues`, `limits`,
`tasks`, `servers`, `activity`, `system` and `settings`. In addition, `search` is the search page, and
`approvals` is opened by a link for people who have no other access. Only pages use `charts`, `flow_graph`,
`tracebacks` and `suggestions`.
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
