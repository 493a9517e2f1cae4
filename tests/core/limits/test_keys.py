"""Keys of calls: their templates are checked when a task is declared, and filled with stored arguments."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firelock import (
    ArgumentError,
    ConfigurationError,
    Debounce,
    Firelock,
    JobContext,
    Limit,
    TaskError,
    Turns,
    Unique,
)
from firelock.limits.keys import key_maker, partition_key_of, to_limits
from firelock.storage import Admission, LimitUse, UniqueUse, Until, write_admission


def keys_of(arguments, *, limits=(), unique=None, defaults=None, start_before=None):
    names = tuple({**arguments, **(defaults or {})})
    return key_maker("shop.run", to_limits(limits), unique, names).asked(
        arguments, defaults or {}, start_before
    )


def limit_key(template, **arguments):
    return keys_of(arguments, limits=[Turns(template)]).admission.limits[0].key


def unique_key(template, **arguments):
    unique = keys_of(arguments, unique=Unique(template)).admission.unique
    owner, _, key = unique.key.partition(" ")
    assert "shop.run" == owner
    return key


# ---- declarations of tasks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"limits": [Turns("k:{other}")]},
        {"limits": [Limit("k", rate=1, cost="{other}")]},
        {"unique": Unique("{other}")},
        {"unique": Debounce("{other}", wait=1)},
        {"limits": [Turns("k:{context}")]},
        {"limits": [Turns("k:{further}")]},
        {"unique": Unique("{pool}")},
    ],
)
def test_placeholder_without_a_parameter_is_refused(options):
    """The error is raised by the declaration and by `using`.

    Context and resource parameters cannot be placeholders.
    """
    fire = Firelock("memory://")

    @fire.resource
    def a_pool():
        yield 1

    def run(context: JobContext, x: int, *further: int, pool: object = a_pool) -> None: ...

    with pytest.raises(TaskError, match="Usable parameters: x"):
        fire.task(name="t", **options)(run)
    task = fire.task(name="t")(run)
    with pytest.raises(TaskError, match="Usable parameters: x"):
        task.using(**options)


# ---- keys from arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (7, "k:7"),
        ("ann lee", "k:ann lee"),
        (True, "k:true"),
        (None, "k:null"),
        (1.5, "k:1.5"),
        ("a/b%c", "k:a%2Fb%25c"),
        ("", "k:"),
        ("{x}", "k:{x}"),
        ("c:d", "k:c:d"),
    ],
)
def test_placeholders_are_replaced_with_stored_values(value, key):
    """A slash in a value does not start a new part of the key."""
    assert key == limit_key("k:{x}", x=value) == unique_key("k:{x}", x=value)


def test_equal_values_of_different_types_have_different_keys():
    """The values 1, True and 1.0 are equal dictionary keys, but the cache of keys distinguishes them."""
    limits = [Turns("k:{x}")]
    values = [1, True, 1.0, "1", False, 0]

    keys = [keys_of({"x": x}, limits=limits).admission.limits[0].key for x in (*values, *reversed(values))]

    assert ["k:1", "k:true", "k:1.0", "k:1", "k:false", "k:0"] == keys[:6] == keys[:5:-1]


def test_key_cache_is_bounded_and_correct():
    """Each call gets the right key even if there are more tenants than cache entries."""
    limits = [Limit("k:{x}", rate=1, cost="{y}")]
    for number in [*range(1_100), *range(1_100)]:
        [use] = keys_of({"x": number, "y": number % 7}, limits=limits).admission.limits
        assert (f"k:{number}", number % 7) == (use.key, use.cost)


def test_key_uses_the_default_of_an_omitted_argument():
    """Tags work in the same way."""
    limits = [Turns("k:{x}")]

    assert "k:5" == keys_of({}, limits=limits, defaults={"x": 5}).admission.limits[0].key
    with pytest.raises(ArgumentError, match="omitted; its default cannot be stored"):
        key_maker("t", to_limits(limits), None, ("x",)).asked({}, {}, None)


@pytest.mark.parametrize("value", ["a\nb", "a\tb", "\x00", "\u2028", [1], {"a": 1}])
def test_value_that_cannot_form_a_key_is_refused(value):
    """For example, a line break could forge the key of another lane."""
    with pytest.raises(ArgumentError):
        limit_key("k:{x}", x=value)
    with pytest.raises(ArgumentError):
        unique_key("k:{x}", x=value)


def test_unique_key_must_not_be_empty():
    """A unique key cannot consist only of an empty argument."""
    with pytest.raises(ArgumentError, match="is empty, with these arguments"):
        unique_key("{x}", x="")


def test_long_unique_key_is_cut_and_ends_in_a_digest():
    """The first 80 characters are kept. The digest distinguishes keys that differ after them."""
    first, second = unique_key("k:{x}", x="y" * 200), unique_key("k:{x}", x="y" * 201)

    assert first != second
    assert f"k:{'y' * 78}~" == first[:81] == second[:81]
    assert {100} == {len(first), len(second)}
    assert f"k:{'y' * 98}" == unique_key("k:{x}", x="y" * 98)


@given(st.text(max_size=150), st.text(max_size=150))
def test_long_limit_key_keeps_its_name(one, two):
    """The settings of this name apply even if the values of the key are cut."""
    try:
        key = limit_key("tenant:{a}/user:{b}/openai", a=one, b=two)
    except ArgumentError:
        return

    assert len(key) <= 100
    assert ["tenant", "user", "openai"] == [part.partition(":")[0] for part in key.split("/")]


def test_long_limit_key_keeps_its_beginning():
    """The last value is cut first. Therefore, keys with the same beginning are in the same partition."""
    assert limit_key("tenant:{a}/user:{b}", a="x" * 50, b="y" * 90).startswith(f"tenant:{'x' * 50}/user:y")


def test_limits_without_parameters_come_first():
    """Other limits follow in the order of their declaration. The lane of the job has the same order."""
    limits = [Turns("b:{x}"), Turns("z"), Turns("a:{x}"), Turns("y")]

    assert ["z", "y", "b:1", "a:1"] == [use.key for use in keys_of({"x": 1}, limits=limits).admission.limits]


def test_limits_with_the_same_key_are_combined():
    """The cost of the combined limit is the sum of both costs."""
    limits = [Limit("k:{x}", rate=1, cost=2), Limit("k:{y}", rate=1, cost="{z}")]

    assert (LimitUse("k:1", 5),) == keys_of({"x": 1, "y": 1, "z": 3}, limits=limits).admission.limits


def test_job_can_have_four_keys_of_maximum_length():
    limits = [Turns(f"k{n}:{{x}}") for n in range(4)]

    assert 400 == sum(len(use.key) for use in keys_of({"x": "y" * 300}, limits=limits).admission.limits)


@pytest.mark.parametrize("value", [-1, 1.5, True, "7", None, 10**10])
def test_cost_from_an_argument_must_be_an_integer(value):
    with pytest.raises(
        ArgumentError, match=r"The cost \{x\} of limit 'k' must be an integer from 0 to 1,000,000,000, got "
    ):
        keys_of({"x": value}, limits=[Limit("k", rate=1, cost="{x}")])


def test_use_of_a_strict_limit_is_marked():
    """The mark is stored with the cost of the use."""
    limits = [Limit("k", concurrent=1, strict=True), Limit("r", rate=1, cost="{x}")]

    assert (LimitUse("k", 1, True), LimitUse("r", 0)) == keys_of({"x": 0}, limits=limits).admission.limits


def test_unique_options_are_stored():
    """Durations are stored in microseconds."""
    unique = Unique("k", until="succeeded", at_least=60, conflict="raise")

    assert (
        UniqueUse("shop.run k", Until.SUCCEEDED, 60_000_000, False, True)
        == keys_of({}, unique=unique).admission.unique
    )


def test_debounce_options_are_stored():
    """The wait and the maximum wait are stored in microseconds."""
    use = keys_of({}, unique=Debounce("k", wait=timedelta(milliseconds=500), keep="first")).admission.unique

    assert UniqueUse("shop.run k", Until.DUE, wait=500_000, max_wait=5_000_000) == use
    assert keys_of({}, unique=Debounce("k", wait=1)).admission.unique.keeps_last


def test_unique_key_defaults_to_all_arguments():
    """The order does not matter. An argument equal to its default has the same effect as an omitted one."""
    unique = Unique()
    both = keys_of({"a": 1, "b": [2]}, unique=unique).admission

    assert both == keys_of({"b": [2], "a": 1}, unique=unique).admission
    assert both == keys_of({"a": 1}, unique=unique, defaults={"b": [2], "a": 5}).admission
    assert both != keys_of({"a": 1, "b": [3]}, unique=unique).admission
    assert both != keys_of({"a": "1", "b": [2]}, unique=unique).admission


def test_deadline_is_a_time_or_a_duration():
    """The deadline is stored in microseconds."""
    assert Admission(start_within=60_000_000) == keys_of({}, start_before=timedelta(minutes=1)).admission
    assert (
        Admission(start_before=1_000_000)
        == keys_of({}, start_before=datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)).admission
    )


def test_job_is_stored_with_its_unique_key_or_first_limit():
    """This key determines the partition of the job.

    A storage ignores the task name in a unique key, so a unique key and a limit key can share a partition.
    """
    limits = [Turns("k:{x}"), Turns("z")]

    assert "shop.run u:1" == keys_of({"x": 1}, limits=limits, unique=Unique("u:{x}")).colocated_with
    assert "z" == keys_of({"x": 1}, limits=limits).colocated_with
    assert keys_of({"x": 1}, start_before=timedelta(1)).colocated_with is None


UNIQUE = (
    None,
    Unique("{a}"),
    Unique(until="started", at_least=2),
    Debounce("k:{a}", wait=1, keep="first"),
)
DEADLINES = (None, timedelta(1), datetime(2030, 1, 1, tzinfo=UTC))


@given(st.text(max_size=120), st.sampled_from(UNIQUE), st.sampled_from(DEADLINES))
def test_cached_admission_text_equals_the_written_text(value, unique, start_before):
    """Therefore, a storage can compare the strings of two jobs."""
    limits = [Turns("fixed"), Limit("k:{a}", concurrent=1, strict=True), Limit("r:{b}", rate=1, cost="{b}")]
    try:
        call = keys_of({"a": value, "b": 3}, limits=limits, unique=unique, start_before=start_before)
    except ArgumentError:
        return

    assert call.text == write_admission(call.admission)
    assert call.colocated_with == partition_key_of(call.admission)


def test_job_without_keys_stores_no_admission_data():
    """Such a job has no limits, unique key or deadline."""
    assert (None, None) == (keys_of({"a": 1}).text, keys_of({"a": 1}).colocated_with)


def test_key_contains_the_stored_form_of_a_date():
    """Keys contain stored values instead of the strings of Python objects."""
    fire = Firelock("memory://")

    @fire.task(name="t", limits=[Turns("day:{day}")])
    def run(day: date) -> None: ...

    binder = fire.registry.binder(run.info)
    arguments = binder.encode((date(2026, 1, 2),), {})

    assert "day:2026-01-02" == run.info.keys().asked(arguments, binder.defaults, None).colocated_with


def test_unique_key_contains_the_first_name_of_its_task():
    """Therefore, a renamed task shares its unique keys with jobs of the earlier name."""
    fire = Firelock("memory://")

    @fire.task(name="new", aliases=["old", "older"], unique=Unique("k"))
    def run() -> None: ...

    assert "old k" == run.info.keys().asked({}, {}, None).admission.unique.key


# ---- limits in `using` -----------------------------------------------------------------------------------


def test_unknown_option_errors_are_configuration_errors():
    """The message for a misspelled option of a task suggests the correct one."""
    fire = Firelock("memory://")

    with pytest.raises(ConfigurationError, match="did you mean 'limits'"):
        fire.task(name="t", limit=[])(lambda: None)
