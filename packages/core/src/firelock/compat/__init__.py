"""Firelock written as other systems are, for programs that move: one module for each system. Experimental.

Each is made of the public API; nothing in the core imports one, and none imports the system that it follows.
`celery/` is the only one so far.
"""
