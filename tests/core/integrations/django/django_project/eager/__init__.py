"""An app whose modules create jobs, and declare wrong tasks, while they are imported."""
