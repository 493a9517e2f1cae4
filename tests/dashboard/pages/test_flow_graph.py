"""The graph of a batch: its layers, and similar members as one node."""

from __future__ import annotations

import attrs

from firelock.storage import BATCH_TASK, BatchRules, Edge, JobRecord, Relations, State, write_relations
from firelock_dashboard.pages.flow_graph import draw_flow


def job(id, task="shop.load", parents=(), state=State.SUCCEEDED):
    return JobRecord(id, task, "{}", "json", state, "default", 0, 1, parents=tuple(map(Edge, parents)))


def columns(graph):
    """Return the labels of each layer, from left to right."""
    found = {}
    for node in graph.nodes:
        found.setdefault(node.x, []).append((node.label, node.count))
    return [found[x] for x in sorted(found)]


def test_members_are_in_layers_after_their_dependencies():
    graph = draw_flow(
        [job("a"), job("b", "shop.b", ["a"]), job("c", "shop.c", ["a", "b"]), job("d", "shop.d", ["c"])]
    )
    assert columns(graph) == [[("load", 1)], [("b", 1)], [("c", 1)], [("d", 1)]]
    assert len(graph.ways) == 4
    assert graph.is_flow


def test_fan_out_of_a_thousand_jobs_is_drawn_as_one_node():
    loads = [job(f"l{number}", parents=["list"]) for number in range(998)]
    loads[7] = job("l7", parents=["list"], state=State.FAILED)
    graph = draw_flow(
        [job("list", "shop.list"), *loads, job("merge", "shop.merge", [one.id for one in loads])]
    )
    assert columns(graph) == [[("list", 1)], [("load", 998)], [("merge", 1)]]
    (many,) = [node for node in graph.nodes if node.count > 1]
    assert many.state == "failed", "what needs somebody comes first"
    assert many.states == (("failed", 1), ("succeeded", 997))
    assert graph.height < 200


def test_few_members_of_one_task_are_drawn_separately():
    loads = [job(f"l{number}", parents=["list"]) for number in range(8)]
    graph = draw_flow([job("list", "shop.list"), *loads])
    assert [len(column) for column in columns(graph)] == [1, 8]
    assert all(node.job_id for node in graph.nodes)


def test_jobs_of_each_task_are_drawn_as_one_node_in_a_large_layer():
    jobs = [job(f"{task}-{number}", f"shop.t{task}", ["a"]) for task in range(30) for number in range(3)]
    graph = draw_flow([job("a"), *jobs])
    assert [len(column) for column in columns(graph)] == [1, 30]


def test_no_two_nodes_overlap():
    loads = [job(f"l{number}", f"shop.t{number % 5}", ["a", "b"]) for number in range(20)]
    graph = draw_flow([job("a"), job("b"), *loads, job("z", "shop.z", ["l1", "l2"])])
    places = [(node.x, node.y) for node in graph.nodes]
    assert len(set(places)) == len(places)
    for node in graph.nodes:
        assert 0 <= node.x <= graph.width - graph.node_width
        assert 0 <= node.y <= graph.height - graph.node_height
        others = [other for other in graph.nodes if other.x == node.x and other is not node]
        assert all(abs(other.y - node.y) >= graph.node_height for other in others)


def test_dependencies_on_jobs_outside_the_batch_are_left_out():
    graph = draw_flow([job("a", parents=["elsewhere"]), job("b")])
    assert not graph.is_flow


def test_layout_of_cyclic_dependencies_terminates():
    graph = draw_flow([job("a", parents=["b"]), job("b", parents=["a"])])
    assert len(graph.nodes) == 2


def test_graph_without_members_is_empty():
    assert draw_flow([]).nodes == []


def test_node_width_follows_its_label_up_to_a_limit():
    """The page truncates longer labels with an ellipsis, which the browser tests check."""
    short, middle, long = (draw_flow([job("a", f"shop.{'b' * length}")]) for length in (5, 28, 120))

    assert short.node_width < middle.node_width < long.node_width
    assert long.node_width == draw_flow([job("a", "b" * 200)]).node_width
    assert long.nodes[0].label == "b" * 120


def test_batch_name_with_dots_is_not_shortened():
    """A task is shown by the last part of its name, but a batch name has no parts."""
    batch = job("a", BATCH_TASK)
    batch = attrs.evolve(batch, relations_json=write_relations(Relations(batch=BatchRules("release 1.2"))))

    (node,) = draw_flow([batch]).nodes

    assert (node.label, node.name, node.task) == ("release 1.2", "release 1.2", BATCH_TASK)


def test_members_of_one_task_are_labelled_by_arguments_or_ids():
    day = {"l1": "2026-11-01", "l2": "2026-11-02", "l3": "again", "l4": "again", "l5": "", "l6": "a" * 40}
    graph = draw_flow(
        [job("list"), *(job(id, parents=["list"]) for id in day)], digest=lambda one: day.get(one.id, "")
    )
    details = {node.job_id: node.detail for node in graph.nodes}
    assert details == {
        "list": "list", "l1": "2026-11-01", "l2": "2026-11-02", "l3": "l3", "l4": "l4", "l5": "l5",
        "l6": "a" * 31 + "…",
    }  # fmt: skip


def test_flow_is_drawn_downwards_on_a_narrow_screen():
    """All nodes are visible without horizontal scrolling, in the order of their layers."""
    loads = [job(f"l{number}", parents=["list"]) for number in range(12)]
    graph = draw_flow(
        [job("list", "shop.list"), *loads, job("publish", "shop.publish", [one.id for one in loads])]
    )

    assert ["list", "load", "publish"] == [node.label for node in graph.narrow.nodes]
    assert 1 == len({node.x for node in graph.narrow.nodes})
    assert [node.y for node in graph.narrow.nodes] == sorted({node.y for node in graph.narrow.nodes})
    assert graph.narrow.width <= 340 < graph.width
    assert len(graph.ways) == len(graph.narrow.ways)


def test_lines_past_other_rows_run_along_the_side():
    """A line to the next row is straight; other lines run along the side and do not cross rows."""
    graph = draw_flow([job("a"), job("b", "shop.b", ["a"]), job("c", "shop.c", ["a", "b"])]).narrow
    left = min(node.x for node in graph.nodes)

    straight = [way for way in graph.ways if "V" in way]
    along = [way for way in graph.ways if "C" in way]

    assert (2, 1) == (len(straight), len(along))
    assert 0 <= int(along[0].split("C")[1].split()[0]) < left


def test_very_long_flow_is_not_drawn_downwards():
    jobs = [job("j0"), *(job(f"j{number}", f"shop.t{number}", [f"j{number - 1}"]) for number in range(1, 70))]

    assert draw_flow(jobs).narrow is None
