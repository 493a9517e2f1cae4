"""The sections of the dashboard, for the navigation, the command palette and its list of shortcuts."""

from __future__ import annotations

import attrs


@attrs.frozen
class Section:
    """A page in the navigation; its title is the text `nav.<name>`."""

    name: str
    path: str
    icon: str
    key: str = ""  # the key to press after g; empty if there is none
    is_in_foot: bool = False


SECTIONS = (
    Section("overview", "/", "overview", "o"),
    Section("jobs", "/jobs", "jobs", "j"),
    Section("batches", "/batches", "batch", "b"),
    Section("failures", "/failures", "failures", "f"),
    Section("queues", "/queues", "queues", "q"),
    Section("limits", "/limits", "limits", "l"),
    Section("recurring", "/recurring", "recurring", "r"),
    Section("tasks", "/tasks", "tasks", "t"),
    Section("servers", "/servers", "servers", "s"),
    Section("activity", "/activity", "activity", "a", is_in_foot=True),
    Section("system", "/system", "system", "y", is_in_foot=True),
    Section("settings", "/settings", "settings", is_in_foot=True),
)
