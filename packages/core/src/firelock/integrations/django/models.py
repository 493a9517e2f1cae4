"""A model without a table, because Django's permissions and admin refer only to models."""

from __future__ import annotations

from django.db import models


class JobBoard(models.Model):  # type: ignore[misc]  # Django has no types
    """All the project's jobs, as one object that users may view, operate or administer."""

    class Meta:
        """No table, and only these permissions."""

        managed = False
        default_permissions = ()
        permissions = (
            ("view_jobs", "Can look at jobs"),
            ("operate_jobs", "Can requeue and delete jobs, pause queues, trigger recurring jobs"),
            ("administer_jobs", "Can do everything with jobs, run any task among it"),
        )
        verbose_name = "job"
        verbose_name_plural = "jobs"
