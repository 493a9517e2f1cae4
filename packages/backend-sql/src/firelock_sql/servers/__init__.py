"""What databases with a server of their own have in common."""
