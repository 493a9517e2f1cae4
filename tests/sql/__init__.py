"""PostgreSQL, MariaDB, MySQL and PgBouncer servers on loopback that exist only during the tests."""
