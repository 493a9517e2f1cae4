"""What the shop sells."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """Somebody's order."""

    buyer = models.CharField(max_length=100)
    receipts = models.IntegerField(default=0)

    def __str__(self):
        """Return whose it is."""
        return f"order of {self.buyer}"
