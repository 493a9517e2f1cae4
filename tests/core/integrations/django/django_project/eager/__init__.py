"""A Django app whose modules create jobs and declare invalid tasks during import."""
