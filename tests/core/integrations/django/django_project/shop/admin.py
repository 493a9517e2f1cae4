"""The admin site of the shop."""

from __future__ import annotations

from django.contrib import admin

from firelock.integrations.django import JobsPanel
from shop.models import Order


@admin.register(Order)
class OrderAdmin(JobsPanel, admin.ModelAdmin):
    """Orders, each with a panel of its jobs."""

    list_display = ("id", "buyer")
