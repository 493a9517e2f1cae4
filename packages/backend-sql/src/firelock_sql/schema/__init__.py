"""The schema: `tables` with their migrations, other `names` for them, and SQLAlchemy's `metadata` of them."""
