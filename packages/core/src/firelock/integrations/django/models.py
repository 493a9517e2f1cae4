"""What Django's permissions and admin know of jobs: a model without a table: both speak of models alone."""

from __future__ import annotations

from django.db import models


class JobBoard(models.Model):  # type: ignore[misc]  # Django brings no types
    """All the project's jobs, as one thing that somebody may look at, operate or administer."""

    class Meta:
        """No table, no permissions but these."""

        managed = False
        default_permissions = ()
        permissions = (
            ("view_jobs", "Can look at jobs"),
            ("operate_jobs", "Can requeue and delete jobs, pause queues, trigger recurring jobs"),
            ("administer_jobs", "Can do everything with jobs, run any task among it"),
        )
        verbose_name = "job"
        verbose_name_plural = "jobs"
