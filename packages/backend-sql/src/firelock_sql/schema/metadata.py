"""The tables as SQLAlchemy metadata for users' tools, such as Alembic.

They are the same tables that `firelock migrate` creates.

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
    """Return a new MetaData with the tables and indexes for one dialect.

    A tool that creates the tables must also insert the row of `firelock_schema` that `firelock migrate sql`
    prints.

    Args:
        dialect: SQLAlchemy's name of the dialect: sqlite, postgresql, mysql or mariadb.
        schema: the schema, as in the storage's URL.
        prefix: the prefix of the tables, as in the storage's URL.

    Raises:
        ConfigurationError: If the schema or the prefix is not a valid name.
    """
    names = Names(schema, prefix)
    metadata = MetaData()
    for table in METADATA.sorted_tables:
        place: Any = schema  # None keeps the connection's default schema
        copy = table.to_metadata(metadata, schema=place, name=names.of(table.name))
        others = {_key(index) for index in table.indexes if not is_of(index, dialect)}
        for index in list(copy.indexes):
            if _key(index) in others:
                copy.indexes.remove(index)
            else:
                index.name = quoted_name(names.of(str(index.name)), quote=None)
    return metadata


def _key(index: Index) -> tuple[str, ...]:
    """Return the key that distinguishes indexes of the same name; a copy of an index has the same key."""
    return str(index.name), *index.columns.keys()
