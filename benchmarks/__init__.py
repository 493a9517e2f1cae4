"""How fast Firelock is, measured beside a bare floor and beside its peers in one run."""

from __future__ import annotations
