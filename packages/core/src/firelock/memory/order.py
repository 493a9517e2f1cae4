"""Job ids in the order of a key."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

Key = tuple[int, ...]
Entry = tuple[Key, str]

_SPARE = 64


class Order:
    """Ids sorted by key, then id; each is in it at most once.

    What is dropped stays in the list as a dead entry and is swept out when the dead outnumber the living, so
    that dropping costs nothing and looking at the first one costs little.
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._living: dict[str, Entry] = {}
        self._head = 0  # everything before it is dead

    def __len__(self) -> int:
        """Return how many ids there are."""
        return len(self._living)

    def put(self, id: str, *key: int) -> None:
        """The id stands at this key, and nowhere else."""
        if id in self._living:
            self.drop(id)
        entry: Entry = (key, id)
        place = bisect_left(self._entries, entry)
        if place < len(self._entries) and self._entries[place] == entry:
            entry = self._entries[
                place
            ]  # dropped from here before: it lives again, since a twin would be two
        else:
            self._entries.insert(place, entry)
        self._living[id] = entry
        self._head = min(self._head, place)

    def drop(self, id: str) -> None:
        """The id is not in it."""
        if self._living.pop(id, None) is None:
            return
        if len(self._entries) > 2 * len(self._living) + _SPARE:
            self._entries = [entry for entry in self._entries if self._is_living(entry)]
            self._head = 0

    def first(self) -> Entry | None:
        """Return the first entry, None where there is none."""
        while self._head < len(self._entries):
            entry = self._entries[self._head]
            if self._is_living(entry):
                return entry
            self._head += 1
        return None

    def after(self, start: Entry | None = None) -> Iterator[Entry]:
        """Yield the entries behind this one, ascending; nothing may be put while it runs."""
        self.first()  # nobody walks over the dead at the head twice
        entries = self._entries
        begin = self._head if start is None else bisect_right(entries, start)
        return (entry for place in range(begin, len(entries)) if self._is_living(entry := entries[place]))

    def before(self, start: Entry | None = None) -> Iterator[Entry]:
        """Yield the entries in front of this one, descending; nothing may be put while it runs."""
        entries = self._entries
        end = len(entries) if start is None else bisect_left(entries, start)
        return (entry for place in range(end - 1, -1, -1) if self._is_living(entry := entries[place]))

    def up_to(self, limit: int) -> Iterator[str]:
        """Yield the ids whose key begins with at most this number, ascending."""
        for key, id in self.after():
            if key[0] > limit:
                return
            yield id

    def _is_living(self, entry: Entry) -> bool:
        return self._living.get(entry[1]) is entry
