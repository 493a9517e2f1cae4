"""Django in the process of the tests: it is configured once, and each test overrides what it needs."""

from __future__ import annotations


def configure_django():
    """Configure Django and set it up, once; tests change settings with `override_settings`."""
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
