"""Django finds commands here, in `commands/`."""
