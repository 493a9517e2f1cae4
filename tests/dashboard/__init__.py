"""The dashboard: its pages, its actions, who may come in."""
