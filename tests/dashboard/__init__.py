"""Tests of the dashboard: its pages, actions and access control."""
