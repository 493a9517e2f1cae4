"""Every number that can be set: where it comes from, within which bounds."""

from __future__ import annotations

from datetime import timedelta

import attrs
import pytest

from firelock.errors import ConfigurationError
from firelock.lifecycle import Retention
from firelock.settings import Settings

DAY = 86_400


def test_the_defaults_are_those_of_the_documentation():
    """Session 30 s, heartbeat 10 s, sweep 5 s, poll 1 s, grace 25 s, 100 async workers a child."""
    settings = Settings()

    assert (30, 10, 5, 1, 25, 100) == (
        settings.session_timeout,
        settings.heartbeat,
        settings.sweep,
        settings.poll,
        settings.grace,
        settings.async_workers,
    )


@pytest.mark.parametrize("field", attrs.fields(Settings), ids=lambda field: field.name)
def test_every_setting_lies_within_its_own_bounds_and_is_explained(field):
    """The default of each setting is allowed, and each says what it means."""
    assert field.metadata["least"] <= field.default <= field.metadata["most"]
    assert field.metadata["doc"]


def test_the_environment_wins_over_the_table_and_the_table_over_the_default():
    """FIRELOCK_<NAME>, then [tool.firelock], then the default; other keys are not ours."""
    table = {"poll": 2, "sweep": 3, "storage": "memory://"}

    settings = Settings.from_environment(table, {"FIRELOCK_POLL": "0.5", "FIRELOCK_WORKERS": " 7 "})

    assert (0.5, 3, 7, 25) == (settings.poll, settings.sweep, settings.workers, settings.grace)


def test_the_process_s_own_environment_is_read(monkeypatch):
    """Without another one given, it is os.environ that counts."""
    monkeypatch.setenv("FIRELOCK_GRACE", "3")

    assert 3 == Settings.from_environment().grace


def test_a_span_may_be_a_timedelta():
    """A timedelta is its seconds."""
    assert 90 == Settings(grace=timedelta(minutes=1.5)).grace


def test_retention_is_in_micros():
    """What keep_… says in seconds is what ended jobs get."""
    settings = Settings(keep_succeeded=1, keep_failed=timedelta(days=2), keep_deleted=0)

    assert Retention(succeeded=1_000_000, failed=2 * DAY * 1_000_000, deleted=0) == settings.retention


def test_settings_come_back_from_their_text():
    """A server's processes get its settings as text."""
    settings = Settings(workers=3, poll=0.25, grace=timedelta(seconds=4))

    assert settings == Settings.from_json(settings.to_json())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"poll": 0}, "Setting poll is 0; it takes a number from 0.01 to 60"),
        ({"grace": -1}, "Setting grace is -1"),
        ({"grace": None}, "Setting grace is None"),
        ({"grace": float("inf")}, "Setting grace is inf"),
        ({"workers": 10**6}, "Setting workers is 1000000"),
        ({"workers": True}, "Setting workers is True"),
        ({"workers": 2.5}, "Setting workers is 2.5; it takes a whole number from 0 to 10000"),
        ({"workers": timedelta(seconds=5)}, "Setting workers is 5.0; it takes a whole number"),
        ({"claim_ahead": 501}, "Setting claim_ahead is 501"),
        ({"session_timeout": 29}, "session_timeout 29 s is less than three heartbeats of 10 s"),
        ({"heartbeat": 11}, "Raise it or lower heartbeat"),
    ],
)
def test_a_value_out_of_bounds_is_refused(values, words):
    """The message names the setting, the value and the bounds."""
    with pytest.raises(ConfigurationError, match=words):
        Settings(**values)


@pytest.mark.parametrize("text", ["many", "", "1 second", "²", "0x10"])
def test_a_text_that_is_no_number_is_refused(text):
    """The message names the variable and what it holds."""
    with pytest.raises(ConfigurationError, match=f"FIRELOCK_WORKERS={text!r} is not a number"):
        Settings.from_environment(environment={"FIRELOCK_WORKERS": text})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", True), ("On", True),
        ("0", False), (" FALSE ", False), ("off", False), ("no", False),
    ],
)  # fmt: skip
def test_a_switch_is_read_from_the_environment(text, expected):
    """By the words that people write for it."""
    settings = Settings.from_environment({}, {"FIRELOCK_LOG_FAILURES": text})

    assert settings.log_failures is expected


def test_a_word_that_is_no_switch_is_refused():
    """With the words that are."""
    with pytest.raises(ConfigurationError, match="FIRELOCK_LOG_FAILURES='maybe' is neither true nor false"):
        Settings.from_environment({}, {"FIRELOCK_LOG_FAILURES": "maybe"})


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_a_switch_takes_no_number(value):
    """True or False, so that a table and a program read alike."""
    with pytest.raises(ConfigurationError, match="it takes true or false"):
        Settings(log_failures=value)
