"""Effects of jobs: rows of a table in the jobs' own database, as a user would have one."""

from __future__ import annotations

from sqlalchemy import NullPool, create_engine, make_url, text

TABLE = "CREATE TABLE effects (job VARCHAR(64) NOT NULL, fence BIGINT NOT NULL)"  # a second row is possible
_DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}


def database(url, pool=NullPool):
    """Return a user's engine for the database of the jobs; by default it keeps no connection."""
    made = make_url(url)
    driver = _DRIVERS.get(made.drivername, made.drivername)
    # A pooler might not support prepared statements.
    arguments = {"prepare_threshold": None} if driver.endswith("+psycopg") else {}
    return create_engine(made.set(drivername=driver, query={}), poolclass=pool, connect_args=arguments)


def effects(url):
    """Return the job id of each effect."""
    with database(url).connect() as connection:
        return [job for (job,) in connection.execute(text("SELECT job FROM effects"))]
