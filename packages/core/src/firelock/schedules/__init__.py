"""When recurring jobs run: `cron/` has expressions and intervals, `recurring_job` the stored definition."""
