"""A year of a fictional shop's jobs, written to any storage for demonstrations and measurements.

`python -m benchmarks.seed 20000 --storage sqlite:///shop.db` fills a storage. `story` writes the jobs.
`year` draws them from the descriptions in `templates` and `failures`, `recurring` defines the recurring jobs,
`stage` calls the storage, and `shop` contains the tasks.
"""

from __future__ import annotations
