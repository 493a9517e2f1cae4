"""Jobs in Django's admin: their counts, read-only, with links to the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import path
from django.views.decorators.http import require_safe

from firelock.errors import FirelockError
from firelock.integrations.django.links import dashboard_link, may_see_jobs
from firelock.integrations.django.models import JobBoard
from firelock.integrations.django.project import get_app

if TYPE_CHECKING:
    from firelock.app import Firelock


@admin.register(JobBoard)
class JobBoardAdmin(admin.ModelAdmin):  # type: ignore[misc]  # Django has no types
    """A page with counts by state and by queue; it replaces the list because jobs are not rows of a model."""

    def get_urls(self) -> list[Any]:
        """Return the URL of this admin's only page."""
        page = require_safe(self.admin_site.admin_view(self.changelist_view))
        return [path("", page, name="firelock_jobboard_changelist")]

    def has_view_permission(self, request: HttpRequest, _board: object = None) -> bool:
        """Allow users who may view the dashboard."""
        return may_see_jobs(request.user)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Allow users who may view the dashboard."""
        return may_see_jobs(request.user)

    def has_add_permission(self, _request: HttpRequest) -> bool:
        """Allow no one: jobs are created by code."""
        return False

    def has_change_permission(self, _request: HttpRequest, _board: object = None) -> bool:
        """Allow no one: jobs are changed on the dashboard."""
        return False

    def has_delete_permission(self, _request: HttpRequest, _board: object = None) -> bool:
        """Allow no one: jobs are deleted on the dashboard."""
        return False

    def changelist_view(self, request: HttpRequest, _more: object = None) -> TemplateResponse:
        """Show the counts, or an error if the storage does not respond."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": "Jobs",
            "opts": self.model._meta,  # noqa: SLF001 - the template needs it
            "dashboard": dashboard_link(),
            **_counted(get_app()),
        }
        return TemplateResponse(request, "firelock/django/job_board.html", context)


def _counted(app: Firelock) -> dict[str, object]:
    try:
        counts, queues, servers = app.jobs.counts(), app.queues.list(), app.servers.list()
    except FirelockError as error:
        return {"problem": str(error)}
    return {
        "states": [(str(state), counts[state], dashboard_link("jobs", state=str(state))) for state in counts],
        "queues": [(queue, dashboard_link(f"queues/{queue.name}")) for queue in queues],
        "servers": sum(any(record.is_alive for record in server.sessions) for server in servers),
    }
