"""`JobsPanel`: the jobs of an object, on its page in Django's admin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from firelock.errors import FirelockError
from firelock.integrations.django.links import dashboard_link, may_see_jobs
from firelock.integrations.django.project import get_app

if TYPE_CHECKING:
    from firelock.jobs.job import Job

_FIELD = "jobs_of_object"


class JobsPanel:
    """A mixin for a ModelAdmin: `class OrderAdmin(JobsPanel, admin.ModelAdmin)`.

    The panel shows the newest jobs with the object's tag to users who may view jobs. Tasks set the tag:
    `@task(tags=["order:{order_id}"])`.
    """

    jobs_limit = 10
    """The number of jobs that are shown, 1 to 500."""

    def jobs_tag(self, obj: Any) -> str:  # noqa: ANN401 - an instance of the admin's model
        """Return the tag of an object's jobs: the model's name and the key, such as `order:7`."""
        return f"{obj._meta.model_name}:{obj.pk}"  # noqa: SLF001 - Django documents _meta

    def get_readonly_fields(self, request: HttpRequest, obj: object = None) -> Sequence[str]:
        """Return the read-only fields, including the panel."""
        return (*super().get_readonly_fields(request, obj), _FIELD)  # type: ignore[misc]  # the ModelAdmin's

    def get_fieldsets(self, request: HttpRequest, obj: object = None) -> Sequence[Any]:
        """Return the fieldsets, followed by one for the jobs unless an object is being added."""
        own = super().get_fieldsets(request, obj)  # type: ignore[misc]  # the ModelAdmin's
        others = [(title, {**options, "fields": _without_jobs(options["fields"])}) for title, options in own]
        if obj is None or not may_see_jobs(request.user):
            return others
        return [*others, ("Jobs", {"fields": [_FIELD]})]

    def jobs_of_object(self, obj: Any) -> SafeString:  # noqa: ANN401 - an instance of the admin's model
        """Return the panel as HTML."""
        tag = self.jobs_tag(obj)
        try:
            jobs = get_app().jobs.find(tag=tag, limit=self.jobs_limit).jobs
        except FirelockError as error:
            return format_html("<p>{}</p>", str(error))
        if not jobs:
            return format_html("<p>No job has the tag <code>{}</code>.</p>", tag)
        rows = format_html_join(
            "", "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", (_row(job) for job in jobs)
        )
        address = dashboard_link("jobs", tag=tag)
        more = format_html('<p><a href="{}">All jobs of {}</a></p>', address, tag) if address else ""
        return format_html(
            "<table><thead><tr><th>Task</th><th>State</th><th>Queue</th><th>Created</th></tr></thead>"
            "<tbody>{}</tbody></table>{}",
            rows,
            more,
        )

    jobs_of_object.short_description = "Newest first"  # type: ignore[attr-defined]  # the admin reads it


def _row(job: Job[Any]) -> tuple[object, ...]:
    address = dashboard_link(f"jobs/{job.id}")
    name = format_html('<a href="{}">{}</a>', address, job.task) if address else job.task
    return name, str(job.state), job.queue, f"{timesince(job.created_at)} ago"


def _without_jobs(fields: Sequence[Any]) -> list[Any]:
    return [field for field in fields if field != _FIELD]
