"""`Limit` and `Turns`: the checks of their arguments, and the names to which settings belong."""

from __future__ import annotations

import pickle
from datetime import timedelta

import pytest

from firelock import ConfigurationError, Debounce, Firelock, Limit, TaskError, Turns, Unique


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"Limit\('x'\) requires concurrent or rate.*Turns\('x'\)"),
        ({"concurrent": -1}, "concurrent must be an integer from 0 to 1,000, got -1"),
        ({"concurrent": 1_001}, "concurrent must be an integer from 0 to .*, got 1001"),
        ({"concurrent": True}, "concurrent must be an integer from 0 to .*, got True"),
        ({"concurrent": 1.5}, "concurrent must be an integer from 0 to .*, got 1.5"),
        ({"rate": -1}, "rate must be an integer from 0 to .*, got -1"),
        ({"rate": 5, "per": 0}, "per must be a timedelta or seconds, above zero and at most .* days, got 0"),
        ({"rate": 5, "per": timedelta(seconds=-1)}, "per must be a timedelta or seconds, .*, got .*"),
        ({"rate": 5, "per": "minute"}, "per must be a timedelta or seconds, .*, got 'minute'"),
        ({"rate": 5, "per": float("nan")}, "per must be a timedelta or seconds, .*, got nan"),
        ({"rate": 5, "per": 1e-9}, "per must be at least a microsecond, got 1e-09"),
        ({"concurrent": 1, "per": 60}, "per=60 has no effect without a rate"),
        ({"concurrent": 1, "burst": 3}, "burst=3 has no effect without a rate"),
        ({"rate": 5, "burst": 0}, "burst must be an integer from 1 .*, got 0"),
        ({"rate": 5, "cost": -1}, "cost must be an integer from 0 to .*, got -1"),
        ({"rate": 5, "cost": 1.5}, "cost must be an integer from 0 to .*, got 1.5"),
        ({"rate": 5, "strict": True}, "strict=True requires concurrent=1, .*, got concurrent=None"),
        ({"concurrent": 2, "strict": True}, "requires concurrent=1, .*, got concurrent=2"),
        ({"concurrent": 1, "strict": 1}, "strict must be True or False, got 1"),
    ],
)
def test_invalid_limit_settings_raise(options, words):
    """The message contains the parameter, its value and the fix."""
    with pytest.raises(ConfigurationError, match=words):
        Limit("x", **options)


@pytest.mark.parametrize("cost", ["tokens", "", "{a}{b}", "n{tokens}", "{tokens}0"])
def test_cost_must_be_a_number_or_one_parameter(cost):
    with pytest.raises(TaskError, match="cost must be an integer or a parameter in braces"):
        Limit("x", rate=1, cost=cost)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (7, "Limit key must be a string"),
        ("", "part without a name"),
        ("a//b", "part without a name"),
        ("tenant:{x}/", "part without a name"),
        (":{x}", "part without a name"),
        ("a\nb", "are not printable"),
        ("{x}", r"has no ':' before \{x\} in the same part.*Use x:\{x\}"),
        ("tenant:{x}/{y}", r"has no ':' before \{y\} in the same part"),
        ("tenant{x}:1", r"has no ':' before \{x\} in the same part.*Use tenant:\{x\}"),
        ("tenant:{x.y}", "more than plain names"),
        ("tenant:{}", "more than plain names"),
        ("tenant:{x", "is not a valid template"),
        ("x" * 101, "at most 100 characters in addition to 0 placeholders, got 101"),
        (f"{'x' * 80}:{{a}}", "at most 80 characters in addition to 1 placeholders, got 81"),
    ],
)
def test_invalid_limit_key_raises(key, words):
    """The constructors of Turns and Limit check the key."""
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
def test_limit_name_is_the_key_without_its_values(key, name):
    """Each part between slashes is cut at its first colon. The settings belong to this name."""
    assert name == Turns(key).name == Limit(key, rate=1).name


def test_limits_with_equal_settings_are_equal():
    """A number of seconds equals a timedelta. The cost and the strictness do not belong to these settings."""
    assert Limit("x", rate=1, per=60) == Limit("x", rate=1, per=timedelta(minutes=1))
    assert Limit("x", rate=1, cost=2).settings == Limit("x", rate=1).settings
    assert Limit("x", concurrent=1, strict=True).settings == Limit("x", concurrent=1).settings
    assert Limit("x", rate=1, per=2).settings != Limit("x", rate=1).settings
    assert Limit("x", rate=1) == pickle.loads(pickle.dumps(Limit("x", rate=1)))


# ---- declarations ----------------------------------------------------------------------------------------


def test_conflicting_settings_for_a_limit_name_are_refused():
    """The second task is refused. Tasks with equal settings share a limit, and a task can replace itself."""
    fire = Firelock("memory://")

    @fire.task(name="one", limits=[Limit("tenant:{x}", concurrent=4)])
    def one(x: int) -> None: ...

    @fire.task(name="same", limits=[Limit("tenant:{y}", concurrent=4, rate=None), Turns("tenant:{y}/z")])
    def same(y: int) -> None: ...

    with pytest.raises(
        ConfigurationError, match=r"Limit 'tenant' is declared with different settings: .*concurrent=4"
    ):

        @fire.task(name="other", limits=[Limit("tenant:{x}", concurrent=5)])
        def other(x: int) -> None: ...

    assert {"tenant": Limit("tenant:{x}", concurrent=4)} == fire.declared_limits()
    assert [] == [info.name for info in fire.tasks() if info.name == "other"]


def test_conflicting_settings_within_a_task_are_refused():
    """Two templates of a task can have the same limit name."""
    fire = Firelock("memory://")

    with pytest.raises(ConfigurationError, match="declared with different settings"):

        @fire.task(name="t", limits=[Limit("k:{x}", concurrent=1), Limit("k:{y}", concurrent=2)])
        def task(x: int, y: int) -> None: ...


def test_new_declaration_of_a_task_replaces_its_limits():
    """This happens when the code is reloaded."""
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
        (Limit("x", rate=1), "limits must be a list, got Limit"),
        ("x", "limits must be a list of Limit and Turns objects, got 'x'"),
        (7, "limits must be a list of Limit and Turns objects, got 7"),
        (["x"], "only Limit and Turns objects, got 'x'"),
        ([Turns(f"k{n}") for n in range(5)], "A job can have at most 4 limits, got 5"),
        ([Turns("k"), Limit("k", rate=1)], "contains a key twice"),
    ],
)
def test_limits_must_be_a_list(limits, words):
    """The declaration of a task and `using` check the value."""
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
def test_repr_shows_the_passed_arguments(written):
    """Omitted arguments are not shown, and durations are shown in seconds."""
    value = eval(written, {"Debounce": Debounce, "Limit": Limit, "Turns": Turns, "Unique": Unique})

    assert written == repr(value)
