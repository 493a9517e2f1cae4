"""MySQL and MariaDB, by PyMySQL or mysqlclient."""
