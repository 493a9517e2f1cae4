"""Firelock beside what a team already uses: one module for each framework or service, none needs another.

What web frameworks share is `request_meta`. Each is made of the public API and of the hooks that strangers'
plugins have; nothing in the core imports one, and each imports its own library, which an extra of the same
name installs (`pip install "firelock[django]"`).
"""
