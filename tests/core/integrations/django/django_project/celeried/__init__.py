"""A Django app whose tasks are written for Celery."""
