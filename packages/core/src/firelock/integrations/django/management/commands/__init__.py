"""`python manage.py firelock …`, in `firelock`."""
