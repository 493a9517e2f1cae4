"""Plugins: `hookspecs` describes each hook, `loader` calls it, `checks` and `observers` help it.

`checks` says what is wrong with a plugin, `observers` queues ended attempts.
"""
