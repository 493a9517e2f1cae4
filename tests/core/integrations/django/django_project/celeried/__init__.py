"""An app whose tasks are written for Celery."""
