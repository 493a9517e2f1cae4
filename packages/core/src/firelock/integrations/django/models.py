"""A model without a table, because Django's permissions and admin refer only to models."""

from __future__ import annotations

from django.db import models


class JobBoard(models.Model):  # type: ignore[misc]  # Django has no types
    """The model to which the permissions to view, operate and administer the project's jobs belong."""

    class Meta:
        """The options of a model without a table, with only these permissions."""

        managed = False
        default_permissions = ()
        permissions = (
            ("view_jobs", "Can view jobs"),
            ("operate_jobs", "Can requeue and delete jobs, pause queues, trigger recurring jobs"),
            ("administer_jobs", "Can do everything with jobs, including running any task"),
        )
        verbose_name = "job"
        verbose_name_plural = "jobs"
