"""Errors that must not occur on any page: they are collected, and fail the test at its end."""

from __future__ import annotations

from urllib.parse import urlsplit

# The page's own report of violations, because the console does not report those that a page hides.
_REPORT = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP forbids ${event.violatedDirective} ${event.blockedURI}`), true);
"""


class Guard:
    """A collector of page errors: policy violations, exceptions, requests to other hosts, and dialogs."""

    def __init__(self):
        self.complaints = []
        self.requests = []
        self._allowed = []

    def watch(self, context, origin):
        """Watch every page of the context, which may send requests only to this origin."""
        context.add_init_script(_REPORT)
        context.on("console", self._console)
        context.on("weberror", lambda error: self._complain(f"error: {error.error}"))
        context.on("dialog", self._dialog)
        context.on("request", lambda request: self._request(request, origin))

    def allow(self, *texts):
        """Accept console messages that contain these texts, because the test causes them."""
        self._allowed += texts

    def verify(self):
        """Assert that no error occurred."""
        wrong = [text for text in self.complaints if not any(part in text for part in self._allowed)]
        assert not wrong, wrong

    def _complain(self, text):
        self.complaints.append(text)

    def _console(self, message):
        if message.type in {"error", "warning"}:
            place = message.location.get("url", "") if message.location else ""
            self._complain(f"console: {message.text} {place}")

    def _dialog(self, dialog):
        self._complain(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request, origin):
        self.requests.append(request.url)
        parts = urlsplit(request.url)
        if parts.scheme != "data" and f"{parts.scheme}://{parts.netloc}" != origin:
            self._complain(f"request: {request.url}")
