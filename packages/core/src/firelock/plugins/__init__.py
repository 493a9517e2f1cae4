"""Plugins: `hookspecs` describes each hook, and `loader` calls it.

`checks` finds the problems of a plugin, and `observers` queues ended attempts.
"""
