"""Interfaces of other systems, for programs that migrate to Firelock: one module per system. Experimental.

Each module uses only the public API. The core does not import these modules, and they do not import the
systems that they imitate. `celery/` is the only such module so far.
"""
