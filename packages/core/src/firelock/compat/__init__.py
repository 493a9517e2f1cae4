"""Interfaces of other systems, for programs that migrate to Firelock: one module per system. Experimental.

Each is built on the public API. Nothing in the core imports one of them, and none of them imports the system
that it follows. `celery/` is the only one so far.
"""
