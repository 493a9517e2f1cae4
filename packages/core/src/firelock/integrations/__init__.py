"""Firelock beside what a team already uses: one module for each framework or service, none needs another.

Web frameworks: `django/`, `flask`, `fastapi`, and `request_meta`, which they share. Whoever watches:
`sentry`, `prometheus`, `opentelemetry`, and `carrier`, what travels for those that trace; `webhooks/`. Each
is made of the public API and of the hooks that strangers' plugins have; nothing in the core imports one, and
each imports its own library, which an extra of the same name installs (`pip install "firelock[django]"`).
"""
