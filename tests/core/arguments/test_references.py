"""`job.output`: it has the type of the result, and can only be passed to another job."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import date
from typing import Any, TypedDict

import pytest

from firelock import (
    ArgumentError,
    ArgumentTooLarge,
    ConfigurationError,
    Debounce,
    JobConflict,
    Limit,
    SignatureMismatch,
    State,
    Unique,
)
from firelock.model.dependencies import Input, On


@pytest.fixture
def source(fire):
    """Return a job whose output other jobs use."""

    @fire.task(name="source")
    def source() -> int:
        return 1

    return source.enqueue()


class Row(TypedDict):
    """A dict with two known keys."""

    day: date
    count: int


USES = {
    "bool": bool, "str": str, "len": len, "iter": iter, "next": next, "int": int, "float": float,
    "hash": hash,
    "equal": lambda it: it == 1, "unequal": lambda it: it != 1, "less": lambda it: it < 1,
    "more": lambda it: it > 1, "plus": lambda it: it + 1, "to a number": lambda it: 1 + it,
    "times": lambda it: it * 2, "item": lambda it: it[0], "attribute": lambda it: it.day,
    "write": lambda it: setattr(it, "day", 1), "call": lambda it: it(), "in": lambda it: 1 in it,
    "f-string": lambda it: f"{it}", "format": lambda it: format(it, ">9"), "copy": copy.copy,
    "pickle": pickle.dumps, "json": json.dumps, "sum": lambda it: sum([it]), "range": range,
    "unpack": lambda it: [*it], "key": lambda it: {it: 1}, "with": lambda it: it.__enter__(),
}  # fmt: skip


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_use_of_an_output_as_a_value_is_refused(source, use):
    """The error is a TypeError, as for any value of a wrong type.

    Its message explains how to use an output.
    """
    with pytest.raises(TypeError):
        use(source.output)


def test_error_about_an_output_contains_the_fix(source):
    """The message also names the job that returns the output."""
    words = "the output of <Job .* source enqueued> is a placeholder, not the result itself"
    with pytest.raises(ArgumentError, match=words):
        source.output + 1

    assert f"the output of {source!r}" == repr(source.output)


def inputs_of(job):
    return [(one.job_id, one.path) for one in job.record().relations.inputs]


def test_output_is_stored_as_null_with_its_path(fire, source):
    """An output can be passed by position or by name, in `*args` or `**kwargs`.

    It can be a whole argument or nested in lists, tuples and dicts of any depth.
    """

    @fire.task(name="take")
    def take(
        a: int,
        b: list[date],
        *rest: int,
        c: dict[str, list[int]],
        d: tuple[int, date] = (0, date.min),
        e: Row | None = None,
        f: Any = None,
        **more: int,
    ) -> None: ...

    out = source.output
    job = take.enqueue(
        out, [date(2026, 1, 2), out], 7, out, c={"x": [1, out], "y": [2]}, d=(out, date(2026, 1, 3)),
        e={"day": date(2026, 1, 4), "count": out}, f=[{"g": out}], h=out,
    )  # fmt: skip

    assert {
        "a": None, "b": ["2026-01-02", None], "*rest": [7, None], "c": {"x": [1, None], "y": [2]},
        "d": [None, "2026-01-03"], "e": {"day": "2026-01-04", "count": None}, "f": [{"g": None}],
        "**more": {"h": None},
    } == json.loads(job.record().arguments)  # fmt: skip
    assert {
        ("a",), ("b", 1), ("*rest", 1), ("c", "x", 1), ("d", 0), ("e", "count"), ("f", 0, "g"),
        ("**more", "h"),
    } == {path for _, path in inputs_of(job)}  # fmt: skip
    assert {source.id} == {job_id for job_id, _ in inputs_of(job)}
    assert [(source.id, On.SUCCEEDED, True)] == [
        (edge.parent_id, edge.on, edge.carries) for edge in job.record().parents
    ]
    assert (State.AWAITING, f"runs when {source.id} has succeeded") == (job.state, job.reason)


def test_values_next_to_an_output_are_checked(fire, source):
    """The error message contains the path of a value of the wrong type."""

    @fire.task(name="take")
    def take(a: list[int], b: tuple[int, int] = (0, 0), c: str = "") -> None: ...

    out = source.output
    for call, words in (
        (lambda: take.enqueue([out, "x"]), r"str where int is annotated at \$\.a\[1\]"),
        (lambda: take.enqueue([out], (1, out, 2)), r"must be tuple\[int, int\], got tuple"),
        (lambda: take.enqueue((out,)), r"must be list\[int\], got tuple"),
        (lambda: take.enqueue([out], c=[out]), "must be str, got list"),
        (lambda: take.enqueue({1: out}), "use strings as keys"),
        (lambda: take.enqueue([out], c=7), "must be str, got int"),
        (lambda: take.enqueue({out}), "is a placeholder, not the result itself.*use job.result\\(\\)"),
    ):
        with pytest.raises(ArgumentError, match=words):
            call()
    with pytest.raises(SignatureMismatch):
        take.enqueue([out], d=1)
    with pytest.raises(ArgumentTooLarge):
        take.enqueue([out], c="x" * 40_000)
    assert {State.ENQUEUED: 1} == dict(fire.storage.counts().by_state)


def test_output_in_a_tag_or_key_is_refused(fire, source):
    """The value of an output is not known when the job is stored."""

    def take(a: int, b: int = 0) -> None: ...

    out = source.output
    for options, words in (
        ({"tags": ["a:{a}"]}, "Tag 'a:{a}' uses 'a', which contains the output of <Job"),
        ({"limits": [Limit("x:{a}", concurrent=1)]}, "Limit key 'x:{a}' uses 'a'"),
        ({"limits": [Limit("y", rate=5, cost="{a}")]}, "Cost '{a}' uses 'a'"),
        ({"unique": Unique("{a}")}, "The key of Unique"),
        ({"unique": Unique()}, "The key of Unique"),
    ):
        task = fire.task(name=f"take{len(list(fire.tasks()))}", **options)(take)
        with pytest.raises(ArgumentError) as caught:
            task.enqueue(out)
        assert words in str(caught.value)
        if "tags" in options or "limits" in options:
            assert task.enqueue(1, out).state is State.AWAITING


def test_output_and_after_of_the_same_job_are_one_dependency(fire, source):
    """The output of a job is available only if the job succeeds, so no other condition is allowed with it."""

    @fire.task(name="take")
    def take(a: int, b: int = 0) -> int:
        return a

    both = take.using(after=source).enqueue(source.output, source.output)
    child = source.then(take, source.output)
    other = take.enqueue(1)
    many = take.using(after=[source, other], on="finished").enqueue(1)

    assert [(source.id, True)] == [(edge.parent_id, edge.carries) for edge in both.record().parents]
    assert [(source.id, True)] == [(edge.parent_id, edge.carries) for edge in child.record().parents]
    assert [(source.id, On.FINISHED), (other.id, On.FINISHED)] == [
        (edge.parent_id, edge.on) for edge in many.record().parents
    ]
    assert f"runs when {source.id} has ended, and for 1 more" == many.reason
    with pytest.raises(ConfigurationError, match="its output exists only after it has succeeded"):
        take.using(after=source, on="failed").enqueue(source.output)
    with pytest.raises(ConfigurationError, match="its output exists only after it has succeeded"):
        source.then(take.using(on="finished"), source.output)


def test_job_can_have_at_most_100_parents(fire, source):
    """A job that needs more parents must wait for a batch instead."""

    @fire.task(name="take")
    def take(a: list[int]) -> None: ...

    jobs = take.enqueue_many([([1],)] * 101)

    assert 100 == len(take.enqueue([job.output for job in jobs[:100]]).record().parents)
    with pytest.raises(ConfigurationError, match="A job can wait for at most 100 other jobs, got 101"):
        take.using(after=jobs[0]).enqueue([job.output for job in jobs[1:]])


def test_job_with_parents_cannot_have_a_delay_or_due_time(fire, source):
    """The same applies to debounced jobs. Recurring jobs cannot have parents."""

    @fire.task(name="take")
    def take(a: int) -> None: ...

    for call in (
        lambda: take.using(delay=1, after=source).enqueue(1),
        lambda: take.using(delay=1).enqueue(source.output),
        lambda: take.schedule(5, source.output),
    ):
        with pytest.raises(ConfigurationError, match="Do not pass delay or at together"):
            call()
    with pytest.raises(ConfigurationError, match="determines when a job runs"):
        take.using(unique=Debounce("x", wait=5)).enqueue(source.output)
    with pytest.raises(ConfigurationError, match="after='id' must contain only handles of jobs, got 'id'"):
        take.using(after="id")
    with pytest.raises(ConfigurationError, match="A recurring job does not accept after"):
        take.using(after=source).recur("x", "0 2 * * *", 1)
    with pytest.raises(ConfigurationError, match="does not accept the output of another job"):
        take.recur("x", "0 2 * * *", source.output)


def test_calls_of_enqueue_many_accept_outputs(fire, source):
    """Outputs can be passed in calls and in the tuples of a single task."""

    @fire.task(name="take")
    def take(a: int) -> None: ...

    jobs = take.enqueue_many([(1,), (source.output,)])
    jobs += fire.enqueue_many([take.call(source.output)])
    jobs += take.using(unique=Unique("only")).enqueue_many([(source.output,)])

    assert ["enqueued", "awaiting", "awaiting", "awaiting"] == [job.state for job in jobs]


def test_copy_of_a_job_has_the_same_outputs(fire, source):
    """The copy waits for the same jobs as the original."""

    @fire.task(name="take")
    def take(a: int) -> None: ...

    job = take.enqueue(source.output)
    copy_of_it = fire.jobs.copy(job.id)

    assert [Input(source.id, ("a",))] == list(copy_of_it.record().relations.inputs)
    assert State.AWAITING is copy_of_it.refresh().state
    with pytest.raises(JobConflict, match="it waits for the output of another job"):
        job.requeue()
