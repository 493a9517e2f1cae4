"""A module that can create a job when it is imported."""

from __future__ import annotations

import os

from firelock.integrations.django import fire, task


@task
def reindex(product_id: int) -> None:
    """Index a product again."""


match os.environ.get("EAGER"):
    case "enqueue":
        reindex.enqueue(4711)
    case "batch":
        with fire.batch("all products") as batch:
            batch.add(reindex, 4711)
