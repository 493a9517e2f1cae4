"""A year of a fictional shop's jobs, written to any storage for demonstrations and measurements.

`python -m benchmarks.seed 20000 --storage sqlite:///shop.db` fills one. Read `story`, which writes it, by
what `year` draws, `looks` and `failures` describe, `recurring` defines and `stage` does to the storage; the
tasks are in `shop`.
"""

from __future__ import annotations
