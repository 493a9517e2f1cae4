"""Redis and Valkey of the tests' own, on loopback and gone with the tests, and what only they can show."""
