"""Integrations of Firelock with other software: one independent module per framework or service.

Web frameworks: `django/`, `flask`, `fastapi`, and `request_meta`, which they share. Monitoring: `sentry`,
`prometheus`, `opentelemetry`, and `carrier`, which stores tracing data in jobs; `webhooks/`. Each module uses
the public API and the hooks that third-party plugins have. Nothing in the core imports one of them. Each
imports its own library, which an extra of the same name installs (`pip install "firelock[django]"`).
"""
