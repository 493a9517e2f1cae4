"""Signed HTTP webhooks for what somebody has to know of: failures, waits, missed schedules, lost servers.

Read `hooks` first, the plugin; `alerts` notices, `delivery` sends.
"""

from __future__ import annotations

from firelock.integrations.webhooks.delivery import verify
from firelock.integrations.webhooks.hooks import Webhook, Webhooks

__all__ = ["Webhook", "Webhooks", "verify"]
