"""Integrations of Firelock with other software: one independent module per framework or service.

Web frameworks: `django/`, `flask`, `fastapi`, and `request_meta`, which they share. Monitoring: `sentry`,
`prometheus`, `opentelemetry`, and `carrier`, which stores tracing data in jobs. Notifications: `webhooks/`.
Each module uses only the public API and the hooks that are available to third-party plugins. The core does
not import any of these modules. The library that a module needs is installed by the extra of the same name
(`pip install "firelock[django]"`).
"""
