"""The hooks that the dashboard brings: pages, panels, and who may come in."""

from __future__ import annotations

from collections.abc import Sequence

from firelock import hookspec


@hookspec
def dashboard_pages() -> Sequence[object]:  # type: ignore[empty-body]
    """Offer pages to the dashboard.

    Called once when a dashboard is first asked for a page. Returns `Page` objects. An exception costs this
    plugin's pages, and is in the log and on the page System.

    Example:
        @hookimpl
        def dashboard_pages():
            return [Page("tenants", "Tenants", show_tenants)]
    """


@hookspec
def job_panels(job: object) -> Sequence[object]:  # type: ignore[empty-body]
    """Offer panels for the page of one job.

    Called once a view of the page. Returns `JobPanel` objects. An exception is shown in the panel's place.

    Example:
        @hookimpl
        def job_panels(job):
            return [JobPanel("Trace", show_trace)]
    """


@hookspec(firstresult=True)
def dashboard_permission(request: object) -> object | None:
    """Decide what a visitor of the dashboard may do.

    Called once a request. Returns a permission, or None for "not mine". An exception refuses the request.
    The first plugin that answers something other than None decides, and no other is asked.

    Example:
        @hookimpl
        def dashboard_permission(request):
            return "operate" if request.user.is_staff else None
    """
