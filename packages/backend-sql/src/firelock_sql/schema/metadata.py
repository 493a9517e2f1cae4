"""The tables for a tool of the user's, such as Alembic: the same that `firelock migrate` makes.

```python
from firelock_sql import tables_of

target_metadata = [Base.metadata, tables_of("postgresql")]
```
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, MetaData
from sqlalchemy.sql import quoted_name

from firelock_sql.schema.names import PREFIX, Names
from firelock_sql.schema.tables import METADATA, is_of


def tables_of(dialect: str, *, schema: str | None = None, prefix: str = PREFIX) -> MetaData:
    """Return the tables and indexes as a database has them, in a MetaData of its own.

    A tool that makes them writes the row of `firelock_schema` too, as `firelock migrate sql` prints it.

    Args:
        dialect: SQLAlchemy's name: sqlite, postgresql, mysql or mariadb.
        schema: as in the storage's URL.
        prefix: as in the storage's URL.

    Raises:
        ConfigurationError: a schema or prefix is no name.
    """
    names = Names(schema, prefix)
    metadata = MetaData()
    for table in METADATA.sorted_tables:
        place: Any = schema  # none takes the tables of the connection's own
        copy = table.to_metadata(metadata, schema=place, name=names.of(table.name))
        others = {_key(index) for index in table.indexes if not is_of(index, dialect)}
        for index in list(copy.indexes):
            if _key(index) in others:
                copy.indexes.remove(index)
            else:
                index.name = quoted_name(names.of(str(index.name)), quote=None)
    return metadata


def _key(index: Index) -> tuple[str, ...]:
    """Return what tells an index from another one of its name; a copy has the same."""
    return str(index.name), *index.columns.keys()
