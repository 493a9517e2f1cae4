"""PostgreSQL, MariaDB, MySQL and PgBouncer of the tests' own, on loopback and gone with the tests."""
