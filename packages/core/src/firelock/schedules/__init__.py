"""When recurring jobs run: `cron/` expressions and intervals, and `recurring_job`, the stored definition."""
