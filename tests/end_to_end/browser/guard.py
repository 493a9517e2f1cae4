"""What must not happen on any page: it is watched in every context, and told at the end of each test."""

from __future__ import annotations

from urllib.parse import urlsplit

# The page's own report: the console tells of a violation too, but not of one that a page hides.
_REPORT = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP forbids ${event.violatedDirective} ${event.blockedURI}`), true);
"""


class Guard:
    """Collects what pages do wrong: policy violations, errors, requests to elsewhere, dialogs."""

    def __init__(self):
        self.complaints = []
        self.requests = []
        self._allowed = []

    def watch(self, context, origin):
        """Every page of the context is watched; it may ask the origin alone."""
        context.add_init_script(_REPORT)
        context.on("console", self._console)
        context.on("weberror", lambda error: self._complain(f"error: {error.error}"))
        context.on("dialog", self._dialog)
        context.on("request", lambda request: self._request(request, origin))

    def allow(self, *texts):
        """The console may say this: a test causes it."""
        self._allowed += texts

    def verify(self):
        """Nothing went wrong."""
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
