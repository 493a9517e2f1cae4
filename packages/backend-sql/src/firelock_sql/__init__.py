"""SQL storages for Firelock."""
