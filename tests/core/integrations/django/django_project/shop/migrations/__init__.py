"""The shop has no tables but those of its models."""
