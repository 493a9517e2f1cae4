"""Redis and Valkey storage for Firelock."""
