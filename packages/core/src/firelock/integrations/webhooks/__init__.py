"""Signed HTTP webhooks for events that need attention: failures, long waits, missed schedules, lost servers.

Read `hooks` first: it contains the plugin. `alerts` finds the events, and `delivery` sends them.
"""

from __future__ import annotations

from firelock.integrations.webhooks.delivery import verify
from firelock.integrations.webhooks.hooks import Webhook, Webhooks

__all__ = ["Webhook", "Webhooks", "verify"]
