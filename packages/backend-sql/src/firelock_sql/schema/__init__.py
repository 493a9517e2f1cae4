"""The schema: the `tables` and their migrations, its `version`, configurable `names`, and `metadata`."""
