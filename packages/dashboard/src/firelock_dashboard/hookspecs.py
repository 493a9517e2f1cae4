"""The dashboard's hooks, for pages, panels and permissions."""

from __future__ import annotations

from collections.abc import Sequence

from firelock import hookspec


@hookspec
def dashboard_pages() -> Sequence[object]:  # type: ignore[empty-body]
    """Add pages to the dashboard.

    Called once, when a dashboard receives its first request for a page. An implementation must return `Page`
    objects. If the implementation raises an exception, this plugin has no pages, and the exception is logged
    and shown on the System page.

    Example:
        @hookimpl
        def dashboard_pages():
            return [Page("tenants", "Tenants", show_tenants)]
    """


@hookspec
def job_panels(job: object) -> Sequence[object]:  # type: ignore[empty-body]
    """Add panels to the page of a job.

    Called each time the page is viewed. An implementation must return `JobPanel` objects. If the
    implementation raises an exception, the page shows the exception in place of the panel.

    Example:
        @hookimpl
        def job_panels(job):
            return [JobPanel("Trace", show_trace)]
    """


@hookspec(firstresult=True)
def dashboard_permission(request: object) -> object | None:
    """Decide what a visitor of the dashboard may do.

    Called once per request. An implementation must return a permission, or None if it does not decide about
    this visitor. The first result other than None decides, and no other plugin is called. If an
    implementation raises an exception, the request is refused.

    Example:
        @hookimpl
        def dashboard_permission(request):
            return "operate" if request.user.is_staff else None
    """
