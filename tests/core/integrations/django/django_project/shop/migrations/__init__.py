"""The migrations of the shop, which has only the tables of its models."""
