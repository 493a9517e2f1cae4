"""The dashboard of Firelock."""
