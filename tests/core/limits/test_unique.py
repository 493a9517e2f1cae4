"""`Unique` and `Debounce`: the checks of their arguments."""

from __future__ import annotations

from datetime import timedelta

import pytest

from firelock import ConfigurationError, Debounce, Firelock, TaskError, Unique


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"until": "finished"}, "until must be one of started, ended, succeeded, got 'finished'"),
        ({"keep": "newest"}, "keep must be one of first, last, got 'newest'"),
        ({"conflict": "ignore"}, "conflict must be one of return, raise, got 'ignore'"),
        ({"until": ["ended"]}, r"until must be one of .*, got \['ended'\]"),
        ({"at_least": 0}, "at_least must be a timedelta or seconds, .*, got 0"),
        ({"at_least": -1}, "at_least must be a timedelta or seconds, .*, got -1"),
        ({"at_least": timedelta(days=400)}, "at most 366 days"),
        ({"keep": "last"}, 'keep="last" requires until="started" and no at_least'),
        ({"keep": "last", "until": "started", "at_least": 5}, "no at_least"),
        ({"keep": "last", "until": "started", "conflict": "raise"}, "Use only one of them"),
    ],
)
def test_invalid_unique_options_raise(options, words):
    """The constructor raises a single clear error."""
    with pytest.raises(ConfigurationError, match=words):
        Unique("x", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wait": 0}, "wait must be a timedelta or seconds, .*, got 0"),
        ({"wait": "5"}, "wait must be a timedelta or seconds, .*, got '5'"),
        ({"wait": 5, "max_wait": 4}, r"max_wait must be at least wait \(5 s\), got 4 s"),
        ({"wait": 5, "max_wait": -1}, "max_wait must be a timedelta or seconds, .*, got -1"),
        ({"wait": 5, "keep": "all"}, "keep must be one of .*, got 'all'"),
    ],
)
def test_invalid_debounce_options_raise(options, words):
    """The constructor raises a single clear error."""
    with pytest.raises(ConfigurationError, match=words):
        Debounce("x", **options)


@pytest.mark.parametrize("key", ["", 7, "a\nb", "x" * 101, "{x.y}", "{", "{}"])
def test_invalid_unique_key_template_raises(key):
    """The constructors of Unique and Debounce check the key."""
    with pytest.raises(TaskError):
        Unique(key)
    with pytest.raises(TaskError):
        Debounce(key, wait=1)


def test_max_wait_defaults_to_ten_times_the_wait():
    assert timedelta(seconds=50) == Debounce(wait=5).longest
    assert timedelta(seconds=5) == Debounce(wait=5, max_wait=5).longest


@pytest.mark.parametrize("unique", [True, "x", Unique, 7])
def test_invalid_unique_option_raises(unique):
    """The declaration of a task and `using` check the value."""
    fire = Firelock("memory://")

    def run(x: int) -> None: ...

    with pytest.raises(
        ConfigurationError, match=r"unique must be a Unique, a Debounce or False, got .* Use Unique"
    ):
        fire.task(name="t", unique=unique)(run)
    task = fire.task(name="t")(run)
    with pytest.raises(
        ConfigurationError, match=r"unique must be a Unique, a Debounce or False, got .* Use Unique"
    ):
        task.using(unique=unique)


@pytest.mark.parametrize("value", [0, 5, timedelta(0), timedelta(seconds=-1), "12:00"])
def test_deadline_must_be_a_duration_or_an_aware_datetime(value):
    """The declaration of a task and `using` check the value."""
    fire = Firelock("memory://")

    def run(x: int) -> None: ...

    with pytest.raises(ConfigurationError, match="start_before"):
        fire.task(name="t", start_before=value)(run)
    task = fire.task(name="t")(run)
    with pytest.raises(ConfigurationError, match="start_before"):
        task.using(start_before=value)
