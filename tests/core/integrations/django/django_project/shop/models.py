"""The models of the shop."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order of a buyer."""

    buyer = models.CharField(max_length=100)
    receipts = models.IntegerField(default=0)

    def __str__(self):
        """Return a phrase that contains the buyer's name."""
        return f"order of {self.buyer}"
