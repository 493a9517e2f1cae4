"""Plugins: `hookspecs` describes each hook, `observers` queues ended attempts, `loader` calls the hooks."""
