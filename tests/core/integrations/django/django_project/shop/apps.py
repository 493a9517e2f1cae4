"""The shop as an app of Django's."""

from __future__ import annotations

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """`shop` in INSTALLED_APPS."""

    name = "shop"
