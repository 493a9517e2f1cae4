"""Where the jobs of a list stand: the lists that hold its parts are read and merged as far as a page needs.

Each partition keeps a list of its own for every state and queue, by the instant of the change; for every tag,
parent and recurring job, by creation; one of its scheduled jobs, by when they are due; and one of all its
jobs. Where few jobs have what is looked for, their list is read whole and sorted. Otherwise lists in the
order of the page are walked, and the rest is judged on the way, so far and no farther: a page answers in
bounded time at any size, and may be short with a cursor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from firelock.storage import JobFilter, State, selection
from firelock_redis.database import Database
from firelock_redis.rows import LETTERS, quoted, task_head

__all__ = ["PAGE_COST", "RARE", "SCRIPT_COST", "Query", "first_places"]

RARE = 2_000
"""Lists of at most so many jobs, all partitions together, are read whole."""

PAGE_COST = 40_000
"""What the scripts of a page may cost that look for jobs in vain, in about a microsecond of the server."""

SCRIPT_COST = 2_500

_AT_ONCE = 1_000  # places in one reply
_LEAST = 8  # asked of each of several ways at first
_LEAST_COST = 300
_TOGETHER = 32  # lists that one script walks as one
_ALL = ("all",)
_DUE = ("due",)
_NOWHERE = ("", "")


@attrs.frozen
class Query:
    """What is looked for, in which direction, behind which place."""

    where: JobFilter
    behind: selection.Place | None
    is_oldest_first: bool

    def is_before(self, one: selection.Place, other: selection.Place) -> bool:
        """Tell whether the first place comes before the other in the list."""
        return one < other if self.is_oldest_first else one > other

    def is_shown(self, place: selection.Place) -> bool:
        """Tell whether the place is within the window of time and behind the cursor."""
        since, until = self.where.since, self.where.until
        return (
            (since is None or since <= place[0])
            and (until is None or place[0] < until)
            and (self.behind is None or self.is_before(self.behind, place))
        )

    def in_order(self, places: Sequence[selection.Place]) -> list[selection.Place]:
        """Return the places in the order of the list."""
        return sorted(places, reverse=not self.is_oldest_first)


@attrs.define
class _Way:
    """Lists of one partition that are walked as one, and how far that has come."""

    partition: int
    lists: Sequence[str]
    sets: Sequence[str] = ()  # lists that a job has to be in as well
    told: str = "score"  # another time than that of the lists: they are read whole
    reached: selection.Place | None = None
    is_done: bool = False
    places: list[selection.Place] = attrs.field(factory=list)  # found, not taken yet

    def read(self, database: Database, query: Query, wanted: int, cost: int) -> bool:
        """More places are here, or all there are; return whether it stopped for having cost enough."""
        if self.told != "score":
            self._read_whole(database, query)
            return False
        wanted = min(wanted, _AT_ONCE)
        window = _text(query.where.since), _text(query.where.until)
        start = (*window, *(self.reached or query.behind or _NOWHERE))
        found = self._walk(database, query, start, wanted, cost)
        self.places += found
        return not self.is_done and len(found) < wanted

    def _read_whole(self, database: Database, query: Query) -> None:
        found: list[selection.Place] = []
        while not self.is_done:
            start = ("", "", *(self.reached or _NOWHERE))
            found += self._walk(database, query, start, _AT_ONCE, SCRIPT_COST)
        self.places = query.in_order([place for place in found if query.is_shown(place)])

    def _walk(
        self, database: Database, query: Query, start: tuple[object, ...], wanted: int, cost: int
    ) -> list[selection.Place]:
        is_done, time, id, *found = database.run(
            "find", self.partition, int(query.is_oldest_first), *start, wanted, cost, self.told,
            *self._conditions(query.where), len(self.sets), *self.sets, *self.lists,
        )  # fmt: skip
        self.is_done = bool(is_done)
        if id:
            self.reached = _instant(time), id
        return list(zip(map(_instant, found[::2]), found[1::2], strict=True))

    def _conditions(self, where: JobFilter) -> tuple[object, ...]:
        """Return the conditions that each job is judged by, those apart that hold for all of these lists."""
        are_of_state = all(name[:2] in {"l:", "he", "du"} for name in self.lists)
        are_of_queue = all(name[:2] == "l:" for name in self.lists)
        state = State.SCHEDULED if where.by_due else where.state
        return (
            where.id_prefix or "",
            "" if state is None or are_of_state else LETTERS[state],
            "" if where.queue is None or are_of_queue else where.queue,
            "" if where.task is None else task_head(where.task),
            "" if where.server is None else quoted(where.server),
            "" if where.fingerprint is None else quoted(where.fingerprint),
            "" if where.is_retrying is None else int(where.is_retrying),
        )

    def take_until(self, query: Query, horizon: selection.Place | None) -> list[selection.Place]:
        """Return the places up to the horizon, all where there is none; they are gone from here."""
        if horizon is None:
            taken, self.places = self.places, []
            return taken
        taken = [place for place in self.places if not query.is_before(horizon, place)]
        self.places = self.places[len(taken) :]
        return taken


def _text(at: int | None) -> object:
    return "" if at is None else at


def _instant(score: str) -> int:
    return int(score) if score.lstrip("-").isdigit() else int(float(score))


# ---- the ways --------------------------------------------------------------------------------------------


def _ways(database: Database, where: JobFilter) -> Iterator[_Way]:
    """Yield the ways that lead to every job of the filter, each job by one of them."""
    if where.parent_id is not None:  # children lie beside their parents
        yield from _ways_of(database, database.partitions.of(where.parent_id), where)
        return
    for partition in range(database.partitions.number):
        yield from _ways_of(database, partition, where)


def _ways_of(database: Database, partition: int, where: JobFilter) -> Iterator[_Way]:
    rare, few = _rare_lists(where), RARE // database.partitions.number
    if where.by_due and not rare and where.queue is None:
        yield _Way(partition, _DUE)
        return
    letters = _letters(where, is_rare=bool(rare))
    if not letters and not rare:
        yield _Way(partition, _ALL)
        return
    queue = "" if where.queue is None else f"={where.queue}"
    reply = database.run("lists", partition, letters, queue, *rare)
    lengths = sorted(zip(reply, rare, strict=False))
    lists = dict(zip(reply[len(rare) :: 2], reply[len(rare) + 1 :: 2], strict=True))
    total = sum(lists.values())
    if rare:
        length, name = lengths[0]
        others = [other for _, other in lengths[1:]]
        if where.by_due:
            is_few = length <= few
            yield _Way(partition, [name], others, "due") if is_few else _Way(partition, _DUE, rare)
        elif where.state is None:
            yield _Way(partition, [name], others)
        elif length <= min(few, total):
            yield _Way(partition, [name], others, "changed")
        else:
            yield from _merged(partition, list(lists), rare)
    elif where.by_due:
        is_few = total <= few
        yield from _merged(partition, list(lists), (), "due") if is_few else [_Way(partition, _DUE)]
    elif where.state is not None:
        yield from _merged(partition, list(lists), ())
    elif total <= few:
        yield from _merged(partition, list(lists), (), "created")
    else:
        yield _Way(partition, _ALL)


def _merged(partition: int, lists: Sequence[str], sets: Sequence[str], told: str = "score") -> Iterator[_Way]:
    for start in range(0, len(lists), _TOGETHER):
        yield _Way(partition, lists[start : start + _TOGETHER], sets, told)


def _rare_lists(where: JobFilter) -> list[str]:
    """Return the lists, by creation, that each job of the filter is in."""
    named = (("c", where.parent_id), ("t", where.tag), ("rj", where.recurring_id))
    return [f"{kind}:{value}" for kind, value in named if value is not None]


def _letters(where: JobFilter, *, is_rare: bool) -> str:
    """Return the states whose lists together have each job of the filter, and may be few enough to sort."""
    if where.by_due:
        return LETTERS[State.SCHEDULED]
    if where.state is not None:
        return LETTERS[where.state]
    if is_rare:
        return ""
    if where.is_retrying:
        return LETTERS[State.SCHEDULED]
    return "" if where.queue is None else "".join(LETTERS.values())


# ---- the page --------------------------------------------------------------------------------------------


def first_places(
    database: Database, query: Query, limit: int
) -> tuple[list[selection.Place], selection.Place | None]:
    """Return the first places in order, more than `limit` where there are, and how far was looked if not all.

    One round trip a partition, and two where lists are to be chosen from; more for a limit above 1,000.
    """
    ways = list(_ways(database, query.where))
    found: list[selection.Place] = []
    horizon: selection.Place | None = None
    cost = min(SCRIPT_COST, max(_LEAST_COST, PAGE_COST // max(1, len(ways))))
    turn = spent = 0
    while True:
        wanted = limit + 1 - len(found)
        if len(ways) > 1:  # one may have few of the first jobs, or all of them
            wanted = min(wanted, max(_LEAST, 2 * wanted // len(ways)) << turn)
        turn += 1
        for way in ways:
            if not way.is_done and way.reached == horizon:
                spent += cost * way.read(database, query, wanted, cost)
        horizon = _least_reached(query, ways)
        found += query.in_order([place for way in ways for place in way.take_until(query, horizon)])
        if horizon is None or len(found) > limit:
            return found, None
        if spent >= PAGE_COST:
            return found, horizon


def _least_reached(query: Query, ways: Sequence[_Way]) -> selection.Place | None:
    reached = [way.reached for way in ways if not way.is_done and way.reached is not None]
    if not reached:
        return None
    return min(reached) if query.is_oldest_first else max(reached)
