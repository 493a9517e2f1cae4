"""The shop as a Django app."""

from __future__ import annotations

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """The configuration for `shop` in INSTALLED_APPS."""

    name = "shop"
