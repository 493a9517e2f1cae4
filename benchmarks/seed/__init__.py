"""A year of a made-up shop's jobs, written into any storage: something to look at and to measure.

`python -m benchmarks.seed 20000 --storage sqlite:///shop.db` fills one. Read `story`, which writes it, by
what `year` draws, `looks` and `failures` describe, `recurring` defines and `stage` does to the storage; the
tasks are in `shop`.
"""

from __future__ import annotations
