"""Pages of stored objects: a check of the page limit, and pages of records, newest first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from firelock.errors import ConfigurationError, StorageError
from firelock.model.ids import is_newest_first_key
from firelock.model.text import shown

if TYPE_CHECKING:
    from firelock.storage import Record, Storage

PAGE_LIMIT = 500
_Item = TypeVar("_Item")


class Paged(Generic[_Item]):
    """A page, which iterates over its items; the first field contains them."""

    def _items(self) -> list[_Item]:
        items: list[_Item] = getattr(self, self.__match_args__[0])  # type: ignore[attr-defined]  # of attrs
        return items

    def __iter__(self) -> Iterator[_Item]:
        """Iterate over the items of the page."""
        return iter(self._items())

    def __len__(self) -> int:
        """Return the number of items on the page."""
        return len(self._items())


def check_limit(limit: int, nouns: str) -> int:
    """Return the limit of a page after checking its value.

    Raises:
        ConfigurationError: If the limit is not from 1 to 500.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_LIMIT:
        raise ConfigurationError(
            f"limit must be from 1 to {PAGE_LIMIT} {nouns} per page, got {shown(limit)}."
        )
    return limit


def newest_records(
    storage: Storage, kind: str, nouns: str, *, limit: int, cursor: str | None
) -> tuple[list[Record], str | None]:
    """Return a page of records, newest first, and the cursor of the next page.

    When sorted by key, the newest of these records must come first.

    Raises:
        ConfigurationError: If the limit is not from 1 to 500.
        StorageError: If the cursor does not belong to a page of these records.
    """
    check_limit(limit, nouns)
    if cursor is not None and not is_newest_first_key(cursor):
        raise StorageError(
            f"Cursor {shown(cursor)} does not belong to a page of {nouns}. Start without a cursor."
        )
    records = storage.list_records(kind, after=cursor or "", limit=limit + 1)
    return list(records[:limit]), records[limit - 1].key if len(records) > limit else None
