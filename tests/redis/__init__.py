"""Redis and Valkey servers on loopback that exist only during the tests, and the tests that need them."""
