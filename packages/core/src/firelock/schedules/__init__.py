"""The schedules of recurring jobs: `cron/` for expressions and intervals, `recurring_job` for definitions."""
