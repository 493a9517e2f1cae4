"""The schema: the `tables` and their migrations, their configurable `names`, and their `metadata`."""
