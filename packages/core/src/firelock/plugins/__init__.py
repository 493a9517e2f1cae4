"""Plugins: `hookspecs` describes each hook, `loader` finds plugins, loads them and calls their hooks."""
