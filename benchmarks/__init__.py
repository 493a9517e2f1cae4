"""Measurements of Firelock's speed, compared with its peers and with the floor, the minimum work."""

from __future__ import annotations
