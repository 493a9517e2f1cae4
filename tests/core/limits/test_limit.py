"""`Limit` and `Turns`: the checks of their arguments, and the names to which settings belong."""

from __future__ import annotations

import pickle
from datetime import timedelta

import pytest

from firelock import ConfigurationError, Debounce, Firelock, Limit, TaskError, Turns, Unique


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"Limit\('x'\) has no number.*Turns\('x'\)"),
        ({"concurrent": -1}, "concurrent=-1 is refused; use a whole number from 0 to 1,000"),
        ({"concurrent": 1_001}, "concurrent=1001 is refused"),
        ({"concurrent": True}, "concurrent=True is refused"),
        ({"concurrent": 1.5}, "concurrent=1.5 is refused"),
        ({"rate": -1}, "rate=-1 is refused"),
        ({"rate": 5, "per": 0}, "per=0 is refused; pass a timedelta or seconds, above zero"),
        ({"rate": 5, "per": timedelta(seconds=-1)}, "per=.* is refused"),
        ({"rate": 5, "per": "minute"}, "per='minute' is refused"),
        ({"rate": 5, "per": float("nan")}, "per=nan is refused"),
        ({"rate": 5, "per": 1e-9}, "less than a microsecond"),
        ({"concurrent": 1, "per": 60}, "per=60 says something of a rate, and none is given"),
        ({"concurrent": 1, "burst": 3}, "burst=3 says something of a rate"),
        ({"rate": 5, "burst": 0}, "burst=0 is refused; use a whole number from 1"),
        ({"rate": 5, "cost": -1}, "cost=-1 is refused"),
        ({"rate": 5, "cost": 1.5}, "cost=1.5 is refused"),
        ({"rate": 5, "strict": True}, "strict=True .* needs concurrent=1, not None"),
        ({"concurrent": 2, "strict": True}, "needs concurrent=1, not 2"),
        ({"concurrent": 1, "strict": 1}, "strict=1 is neither True nor False"),
    ],
)
def test_wrong_numbers_are_refused_where_they_are_written(options, words):
    """The message contains the parameter, its value and the fix."""
    with pytest.raises(ConfigurationError, match=words):
        Limit("x", **options)


@pytest.mark.parametrize("cost", ["tokens", "", "{a}{b}", "n{tokens}", "{tokens}0"])
def test_a_cost_is_a_number_or_one_parameter(cost):
    """A cost that is neither a number nor one parameter is refused."""
    with pytest.raises(TaskError, match="is no name of a parameter"):
        Limit("x", rate=1, cost=cost)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (7, "A limit's key is a text"),
        ("", "part without a name"),
        ("a//b", "part without a name"),
        ("tenant:{x}/", "part without a name"),
        (":{x}", "part without a name"),
        ("a\nb", "cannot be printed"),
        ("{x}", r"\{x\} has no ':' before it in its part.*Write x:\{x\}"),
        ("tenant:{x}/{y}", r"\{y\} has no ':' before it"),
        ("tenant{x}:1", r"\{x\} has no ':' before it.*Write tenant:\{x\}"),
        ("tenant:{x.y}", "more than plain names"),
        ("tenant:{}", "more than plain names"),
        ("tenant:{x", "is not a valid template"),
        ("x" * 101, "101 characters of its own; at most 100"),
        (f"{'x' * 80}:{{a}}", "81 characters of its own; at most 80 are allowed beside 1 placeholders"),
    ],
)
def test_a_key_that_can_have_no_numbers_is_refused(key, words):
    """The constructors of turns and limits check it."""
    with pytest.raises(TaskError, match=words):
        Turns(key)
    with pytest.raises(TaskError, match=words):
        Limit(key, concurrent=1)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("smtp", "smtp"),
        ("tenant:{t}", "tenant"),
        ("tenant:{t}/openai", "tenant/openai"),
        ("smtp/tenant:{t}", "smtp/tenant"),
        ("pair:{a}-{b}:x/z:{c}", "pair/z"),
        ("{{odd}}:{t}", "{odd}"),
    ],
)
def test_numbers_belong_to_what_stands_before_the_colons(key, name):
    """Each part between slashes is cut at its first colon."""
    assert name == Turns(key).name == Limit(key, rate=1).name


def test_limits_are_equal_by_what_they_say():
    """Seconds and a timedelta are equal. The cost and strictness are not settings of the name."""
    assert Limit("x", rate=1, per=60) == Limit("x", rate=1, per=timedelta(minutes=1))
    assert Limit("x", rate=1, cost=2).numbers == Limit("x", rate=1).numbers
    assert Limit("x", concurrent=1, strict=True).numbers == Limit("x", concurrent=1).numbers
    assert Limit("x", rate=1, per=2).numbers != Limit("x", rate=1).numbers
    assert Limit("x", rate=1) == pickle.loads(pickle.dumps(Limit("x", rate=1)))


# ---- declarations ----------------------------------------------------------------------------------------


def test_one_name_with_two_numbers_is_refused():
    """The second task is refused. Equal settings are one limit, and a task may replace itself."""
    fire = Firelock("memory://")

    @fire.task(name="one", limits=[Limit("tenant:{x}", concurrent=4)])
    def one(x: int) -> None: ...

    @fire.task(name="same", limits=[Limit("tenant:{y}", concurrent=4, rate=None), Turns("tenant:{y}/z")])
    def same(y: int) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Limit 'tenant' has two numbers in code: .*concurrent=4"):

        @fire.task(name="other", limits=[Limit("tenant:{x}", concurrent=5)])
        def other(x: int) -> None: ...

    assert {"tenant": Limit("tenant:{x}", concurrent=4)} == fire.declared_limits()
    assert [] == [info.name for info in fire.tasks() if info.name == "other"]


def test_two_numbers_of_a_name_in_one_task_are_refused():
    """Two templates can have the same name."""
    fire = Firelock("memory://")

    with pytest.raises(ConfigurationError, match="two numbers"):

        @fire.task(name="t", limits=[Limit("k:{x}", concurrent=1), Limit("k:{y}", concurrent=2)])
        def task(x: int, y: int) -> None: ...


def test_a_task_declared_again_gives_other_numbers():
    """After a reload of the code, the new declaration counts."""
    fire = Firelock("memory://")

    def run(x: int) -> None: ...

    fire.task(name="t", limits=[Limit("k:{x}", concurrent=1)])(run)
    fire.task(name="t", limits=[Limit("k:{x}", concurrent=2)])(run)

    assert {"k": Limit("k:{x}", concurrent=2)} == fire.declared_limits()

    fire.task(name="t")(run)

    assert {} == fire.declared_limits()


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limit("x", rate=1), "is one limit; pass a list"),
        ("x", "limits='x' is no list"),
        (7, "limits=7 is no list"),
        (["x"], "'x' is neither a Limit nor a Turns"),
        ([Turns(f"k{n}") for n in range(5)], "5 limits; a job has at most 4"),
        ([Turns("k"), Limit("k", rate=1)], "has a key twice"),
    ],
)
def test_what_is_no_list_of_limits_is_refused(limits, words):
    """The declaration of a task and `using` check it."""
    fire = Firelock("memory://")

    def run(x: int) -> None: ...

    with pytest.raises(ConfigurationError, match=words):
        fire.task(name="t", limits=limits)(run)
    task = fire.task(name="t")(run)
    with pytest.raises(ConfigurationError, match=words):
        task.using(limits=limits)


@pytest.mark.parametrize(
    "written",
    [
        "Limit('smtp', concurrent=4)",
        "Limit('t:{t}', rate=500, per=60, burst=5, cost='{n}')",
        "Limit('ledger', concurrent=1, strict=True)",
        "Turns('t:{t}')",
        "Unique()",
        "Unique('{t}', until='started', at_least=0.5, conflict='raise')",
        "Debounce(wait=5)",
        "Debounce('doc:{t}', wait=2, max_wait=10, keep='first')",
    ],
)
def test_messages_show_what_was_written(written):
    """Omitted arguments are not shown, and durations are shown in seconds."""
    value = eval(written, {"Debounce": Debounce, "Limit": Limit, "Turns": Turns, "Unique": Unique})

    assert written == repr(value)
