"""The conversion between the URL of a storage and a database in Django's settings."""

from __future__ import annotations

import json

from tests.core.integrations.django.projects import DjangoProject, sqlite_database

POSTGRESQL = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": "shop",
    "USER": "ann",
    "PASSWORD": "p@ss/word",
}
MYSQL = {"ENGINE": "django.db.backends.mysql", "NAME": "shop", "USER": "ann"}
OWN = {"pool": True, "isolation_level": 4, "server_side_binding": True}
URLS = """
import json
from django.db import connections
from firelock import ConfigurationError
from firelock.integrations.django.database_url import url_of_database

def url(alias):
    try:
        return url_of_database(alias)
    except ConfigurationError as error:
        return str(error)

print(json.dumps({alias: url(alias) for alias in connections}))
"""


def test_database_entry_is_converted_to_a_storage_url(tmp_path):
    """The URL supports sockets, client library options and special characters; it omits Django's options."""
    databases = {
        "default": sqlite_database("/var/lib/shop #1.db"),
        "memory": sqlite_database(":memory:"),
        "test": sqlite_database("file:memorydb_default?mode=memory&cache=shared"),
        "postgresql": {**POSTGRESQL, "HOST": "db", "PORT": 5433, "OPTIONS": {"sslmode": "require", **OWN}},
        "role": {**POSTGRESQL, "PASSWORD": "", "HOST": "db", "OPTIONS": {"assume_role": "shop owner", **OWN}},
        "ipv6": {**POSTGRESQL, "PASSWORD": "", "HOST": "::1", "OPTIONS": {"sslmode": None}},
        "socket": {**POSTGRESQL, "HOST": "/run/postgresql"},
        "mysql": {**MYSQL, "HOST": "/run/mysqld.sock", "OPTIONS": {"charset": "utf8mb4"}},
    }

    output = DjangoProject(databases, {"storage": "memory://"}).shell(URLS, SHOP_PYMYSQL="1")

    assert {
        "default": "sqlite:////var/lib/shop%20%231.db",
        "memory": "memory://",
        "test": "memory://",
        "postgresql": "postgresql://ann:p%40ss%2Fword@db:5433/shop?sslmode=require",
        "role": "postgresql://ann@db/shop?options=-c%20role%3Dshop%5C%20owner",
        "ipv6": "postgresql://ann@[::1]/shop",
        "socket": "postgresql://ann:p%40ss%2Fword@/shop?host=%2Frun%2Fpostgresql",
        "mysql": "mysql://ann@/shop?unix_socket=%2Frun%2Fmysqld.sock",
    } == output


def test_entry_that_cannot_be_converted_to_a_url_is_refused(tmp_path):
    """For a service file, a non-string option or an SQLite URI, the error suggests a storage URL."""
    databases = {
        "default": sqlite_database("file:/srv/shop.db?nolock=1"),
        "service": {**POSTGRESQL, "NAME": "", "OPTIONS": {"service": "shop"}},
        "ssl": {**MYSQL, "OPTIONS": {"ssl": {"ca": "/etc/ca.pem"}}},
    }

    output = DjangoProject(databases, {"storage": "memory://"}).shell(URLS, SHOP_PYMYSQL="1")

    assert "NAME of database 'default' must be a path, got the URI" in output["default"]
    assert "the name of database 'service', which is in a file of the client" in output["service"]
    assert "OPTIONS['ssl'] of database 'ssl' is of type dict, which a URL cannot contain." in output["ssl"]
    assert all('FIRELOCK = {"database": …, "storage": "…"}' in each for each in output.values())


ALIASES = """
import json, os
from firelock.integrations.django.database_url import alias_of_url

print(json.dumps({url: alias_of_url(url) for url in json.loads(os.environ["GIVEN"])}))
"""


def test_alias_of_a_database_is_found_by_storage_url(tmp_path):
    """Databases are compared by type, host, port and name. A database in memory does not match."""
    databases = {
        "default": sqlite_database(tmp_path / "shop.db"),
        "memory": sqlite_database(":memory:"),
        "server": {**POSTGRESQL, "HOST": "db"},
        "here": {**MYSQL, "HOST": "127.0.0.1"},
    }
    expected = {
        f"sqlite:///{tmp_path}/shop.db?busy_timeout=9": "default",
        f"sqlite:///{tmp_path}/jobs.db": None,
        "postgresql+psycopg://other:***@db:5432/shop?schema=jobs": "server",
        "postgresql://db:5433/shop": None,
        "postgresql://db/jobs": None,
        "mariadb://localhost/shop": "here",
        "mysql://elsewhere/shop": None,
        "memory://": None,
        "redis://db/0": None,
    }

    project = DjangoProject(databases, {"storage": "memory://"}, environment={"SHOP_PYMYSQL": "1"})
    output = project.shell(ALIASES, GIVEN=json.dumps(list(expected)))

    assert expected == output
