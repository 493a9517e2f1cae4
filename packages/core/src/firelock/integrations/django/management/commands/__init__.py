"""`python manage.py firelock …`, in the module `firelock`."""
