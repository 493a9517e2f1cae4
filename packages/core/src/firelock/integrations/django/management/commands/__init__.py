"""`python manage.py firelock …`."""
