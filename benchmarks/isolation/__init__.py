"""Measure the effect of locked rows on other jobs, and how long the end of a job waits until it is stored."""
