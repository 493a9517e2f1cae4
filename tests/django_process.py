"""Django in the process of the tests: it is configured once, and what a test needs goes over that."""

from __future__ import annotations


def configure_django():
    """Django has settings and is set up; further ones come by `override_settings`."""
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            SECRET_KEY="s",
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF="tests.dashboard.no_urls",
            MIDDLEWARE=["django.middleware.common.CommonMiddleware", "tests.dashboard.hosts.choose_urls"],
        )
        django.setup()
