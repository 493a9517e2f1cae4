"""The drawing of a batch's members as a graph with layers from left to right, without any I/O.

A member's layer is the length of the longest path to it. If a layer has more than eight members of one task,
the graph shows them as one node with the count of each state. So a fan-out to thousands of members has three
nodes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from firelock.storage import JobRecord
from firelock_dashboard.web.formatting import job_name, short_id, task_name

_ALIKE = 8  # the maximum number of members of one task in one layer that are drawn separately
_ROWS = 40  # the maximum number of nodes in a layer; in larger layers, each task is drawn as one node
_HEIGHT, _GAP, _WAY, _MARGIN = 46, 12, 38, 6
_NARROWEST, _WIDEST = (
    188,
    260,
)  # the width of a node: two nodes fit side by side on a phone, and longer labels are truncated
_FRAME, _CHARACTER = 44, 7  # the widths of a node's icon and edges, and of one character of its label
_LANE = 40  # the space for the lines to the left of stacked nodes
_BELOW = 26  # the space between stacked layers
_LONGEST = 60  # the maximum number of stacked nodes
_DETAIL = 32  # the maximum number of characters that distinguish members of one task

# The order in which states are listed. The first state that occurs in a node sets the node's colour.
ORDER = ("failed", "processing", "retrying", "enqueued", "scheduled", "awaiting", "deleted", "succeeded")


_Key = tuple[int, str, str]  # a layer, a task, and the id of a single member


@attrs.frozen
class FlowNode:
    """A node for one member or for several similar members."""

    label: str
    states: tuple[tuple[str, int], ...]  # the number of members in each state, in `ORDER`
    job_id: str | None  # the id of a single member
    name: str  # the full name of the task or batch
    task: str
    detail: str = ""  # a string that distinguishes a single member from others of its task
    x: int = 0
    y: int = 0

    @property
    def length(self) -> int:
        """The approximate number of characters of the node's longer line."""
        state = 12 if self.count == 1 else 0  # the length of the state and the separator before the detail
        return max(len(self.label) + (7 if self.count > 1 else 0), len(self.detail) + state)

    @property
    def count(self) -> int:
        """The number of members that the node represents."""
        return sum(number for _, number in self.states)

    @property
    def state(self) -> str:
        """The most important state, which sets the colour."""
        return self.states[0][0]


@attrs.frozen
class FlowGraph:
    """Nodes with their positions, and the lines between them as SVG paths."""

    nodes: Sequence[FlowNode]
    ways: Sequence[str]
    width: int
    height: int
    node_width: int = _NARROWEST
    node_height: int = _HEIGHT
    narrow: FlowGraph | None = None  # the same graph from top to bottom; None if it would be very long

    @property
    def is_flow(self) -> bool:
        """Whether any member waits for another one, so that there are lines to draw."""
        return bool(self.ways)


def draw_flow(
    members: Sequence[JobRecord], *, digest: Callable[[JobRecord], str] = lambda _: ""
) -> FlowGraph:
    """Return the graph of these members; dependencies on jobs outside the graph are left out.

    Args:
        members: the jobs.
        digest: returns a string from a job's arguments that distinguishes the job from others of its task. If
            the string is empty or not unique, the job's id is used instead. Called only for jobs with a node
            of their own.
    """
    parents = _parents(members)
    layers = _layers(parents)
    nodes, node_of = _grouped(members, layers, digest)
    ways = {
        (node_of[parent], node_of[child])
        for child, of_child in parents.items()
        for parent in of_child
        if node_of[parent][0] < node_of[child][0]  # this is false in a cycle
    }
    columns = _columns(nodes, ways)
    placed: dict[_Key, FlowNode] = {}
    tallest = max((len(column) for column in columns), default=0)
    node_width = _node_width(nodes.values())
    spacing = node_width + _WAY
    for number, column in enumerate(columns):
        top = (tallest - len(column)) * (_HEIGHT + _GAP) // 2
        for row, key in enumerate(column):
            x, y = _MARGIN + number * spacing, _MARGIN + top + row * (_HEIGHT + _GAP)
            placed[key] = attrs.evolve(nodes[key], x=x, y=y)
    width = 2 * _MARGIN + max(0, len(columns) - 1) * spacing + node_width
    height = 2 * _MARGIN + max(0, tallest * (_HEIGHT + _GAP) - _GAP)
    drawn = [_way(placed[one], placed[other], node_width) for one, other in sorted(ways)]
    placed_nodes = [placed[key] for column in columns for key in column]
    narrow = _vertical(nodes, columns, ways, node_width) if len(nodes) <= _LONGEST else None
    return FlowGraph(placed_nodes, drawn, width, height, node_width, narrow=narrow)


def _vertical(
    nodes: Mapping[_Key, FlowNode],
    layers: Sequence[Sequence[_Key]],
    ways: Iterable[tuple[_Key, _Key]],
    node_width: int,
) -> FlowGraph:
    """Return the graph with one node per row; lines to rows other than the next run along the left side."""
    placed: dict[_Key, FlowNode] = {}
    y = _MARGIN
    for layer in layers:
        for key in layer:
            placed[key] = attrs.evolve(nodes[key], x=_MARGIN + _LANE, y=y)
            y += _HEIGHT + _GAP
        y += _BELOW - _GAP
    line = {key: number for number, key in enumerate(placed)}
    drawn = [
        _way_down(placed[one], placed[other], node_width, is_next=line[other] == line[one] + 1)
        for one, other in sorted(ways)
    ]
    width = 2 * _MARGIN + _LANE + node_width
    return FlowGraph(list(placed.values()), drawn, width, y - _BELOW + _MARGIN, node_width)


def _way_down(one: FlowNode, other: FlowNode, node_width: int, *, is_next: bool) -> str:
    if is_next:
        return f"M{one.x + node_width // 2} {one.y + _HEIGHT}V{other.y}"
    from_y, to_y = one.y + _HEIGHT // 2, other.y + _HEIGHT // 2
    bend = one.x - min(_LANE, 16 + (to_y - from_y) // 12)
    return f"M{one.x} {from_y}C{bend} {from_y} {bend} {to_y} {other.x} {to_y}"


def _node_width(nodes: Iterable[FlowNode]) -> int:
    """Return a width at which most labels need no ellipsis; the page truncates longer ones."""
    longest = max((node.length for node in nodes), default=0)
    return min(_WIDEST, max(_NARROWEST, _FRAME + longest * _CHARACTER))


def _parents(members: Sequence[JobRecord]) -> dict[str, list[str]]:
    ids = {job.id for job in members}
    return {
        job.id: list(dict.fromkeys(edge.parent_id for edge in job.parents if edge.parent_id in ids))
        for job in members
    }


def _layers(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the layer of each member: the length of the longest path to it, or 0 for members of a cycle."""
    children, waiting = defaultdict[str, list[str]](list), dict[str, int]()
    for child, of_child in parents.items():
        waiting[child] = len(of_child)
        for parent in of_child:
            children[parent].append(child)
    layers = dict.fromkeys(parents, 0)
    ready = [id for id, number in waiting.items() if not number]
    while ready:
        parent = ready.pop()
        for child in children[parent]:
            layers[child] = max(layers[child], layers[parent] + 1)
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)
    return layers


def _grouped(
    members: Sequence[JobRecord], layers: Mapping[str, int], digest: Callable[[JobRecord], str]
) -> tuple[dict[_Key, FlowNode], dict[str, _Key]]:
    alike = defaultdict[tuple[int, str], list[JobRecord]](list)
    for job in members:
        alike[layers[job.id], job_name(job)].append(job)
    single = Counter[int]()
    for (layer, _), jobs in alike.items():
        single[layer] += len(jobs) if len(jobs) <= _ALIKE else 1
    nodes: dict[_Key, FlowNode] = {}
    node_of: dict[str, _Key] = {}
    for (layer, name), jobs in alike.items():
        is_each = len(jobs) <= _ALIKE and single[layer] <= _ROWS
        details = _details(jobs, digest) if is_each or len(jobs) == 1 else {}
        for part in ([job] for job in jobs) if is_each else (jobs,):
            key = (layer, name, part[0].id if is_each else "")
            job_id = part[0].id if len(part) == 1 else None
            label = name if part[0].is_batch else task_name(name)
            nodes[key] = FlowNode(
                label, _states(part), job_id, name, part[0].task, details.get(job_id or "", "")
            )
            node_of |= {job.id: key for job in part}
    return nodes, node_of


def _details(jobs: Sequence[JobRecord], digest: Callable[[JobRecord], str]) -> dict[str, str]:
    """Return, by job id, a string that distinguishes each job from the others."""
    cut = {job.id: _cut(digest(job), _DETAIL) for job in jobs}
    seen = Counter(cut.values())
    return {id: text if text and seen[text] == 1 else short_id(id) for id, text in cut.items()}


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _states(jobs: Iterable[JobRecord]) -> tuple[tuple[str, int], ...]:
    found = Counter("retrying" if job.is_retrying else job.state.value for job in jobs)
    return tuple((state, found[state]) for state in ORDER if found[state])


def _columns(nodes: Mapping[_Key, FlowNode], ways: Iterable[tuple[_Key, _Key]]) -> list[list[_Key]]:
    """Return the layers, each ordered by the mean row of its predecessors, so that few lines cross."""
    follows = defaultdict[_Key, list[_Key]](list)
    for one, other in ways:
        follows[other].append(one)
    columns: list[list[_Key]] = []
    row_of: dict[_Key, float] = {}
    for layer in sorted({key[0] for key in nodes}):
        keys = sorted(key for key in nodes if key[0] == layer)
        keys.sort(key=lambda key: _middle([row_of[one] for one in follows[key]]))
        row_of |= {key: row - len(keys) / 2 for row, key in enumerate(keys)}
        columns.append(keys)
    return columns


def _middle(rows: Sequence[float]) -> float:
    return sum(rows) / len(rows) if rows else 0.0


def _way(one: FlowNode, other: FlowNode, node_width: int) -> str:
    from_x, from_y = one.x + node_width, one.y + _HEIGHT // 2
    to_x, to_y = other.x, other.y + _HEIGHT // 2
    bend = max(24, (to_x - from_x) // 2)
    return f"M{from_x} {from_y}C{from_x + bend} {from_y} {to_x - bend} {to_y} {to_x} {to_y}"
