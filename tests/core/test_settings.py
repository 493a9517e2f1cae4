"""Settings: their sources and their bounds."""

from __future__ import annotations

from datetime import timedelta

import attrs
import pytest

from firelock.errors import ConfigurationError
from firelock.model.lifecycle import Retention
from firelock.settings import Settings

DAY = 86_400


@pytest.mark.parametrize("field", attrs.fields(Settings), ids=lambda field: field.name)
def test_every_setting_has_a_description_and_enforces_its_bounds(field):
    """The default is allowed.

    Values outside the bounds or of another type raise an error with the setting's name.
    """
    least, most = field.metadata["least"], field.metadata["most"]

    assert least <= field.default <= most
    assert field.metadata["doc"]
    for value in (least - 1, most + 1, float("nan"), None, "25", field.type != "bool" or 1):
        with pytest.raises(ConfigurationError, match=f"Setting {field.name} must be .*, got {value!r}"):
            Settings(**{field.name: value})


def test_environment_overrides_pyproject_and_pyproject_overrides_defaults():
    """FIRELOCK_<NAME> has priority over [tool.firelock], which has priority over the default.

    Other variables and keys are ignored.
    """
    table = {"poll": 2, "sweep": 3, "storage": "memory://"}

    settings = Settings.from_environment(table, {"FIRELOCK_POLL": "0.5", "FIRELOCK_WORKERS": " 7 "})

    assert (0.5, 3, 7, 25) == (settings.poll, settings.sweep, settings.workers, settings.grace)


def test_environment_of_the_process_is_read_by_default(monkeypatch):
    monkeypatch.setenv("FIRELOCK_GRACE", "3")

    assert 3 == Settings.from_environment().grace


def test_timedelta_is_accepted_as_a_duration():
    """A timedelta is converted to seconds."""
    assert 90 == Settings(grace=timedelta(minutes=1.5)).grace


def test_retention_is_in_microseconds():
    """The `keep_…` settings are in seconds; the retention of ended jobs is in microseconds."""
    settings = Settings(keep_succeeded=1, keep_failed=timedelta(days=2), keep_deleted=0)

    assert Retention(succeeded=1_000_000, failed=2 * DAY * 1_000_000, deleted=0) == settings.retention


def test_settings_are_restored_from_their_string():
    """The processes of a server get its settings as a string."""
    settings = Settings(workers=3, poll=0.25, grace=timedelta(seconds=4))

    assert settings == Settings.from_json(settings.to_json())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"poll": 0}, "Setting poll must be a number from 0.01 to 60, got 0"),
        ({"workers": 2.5}, "Setting workers must be an integer from 0 to 10000, got 2.5"),
        ({"workers": timedelta(seconds=5)}, "Setting workers must be an integer from 0 to 10000, got 5.0"),
        (
            {"session_timeout": 29},
            r"session_timeout must be at least three times heartbeat \(10 s\), got 29 s",
        ),
        ({"heartbeat": 11}, "Increase session_timeout or reduce heartbeat"),
    ],
)
def test_value_out_of_bounds_is_refused(values, words):
    """The error names the setting, the value and the bounds."""
    with pytest.raises(ConfigurationError, match=words):
        Settings(**values)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        *[("WORKERS", text, "a number") for text in ("many", "", "1 second", "²", "0x10")],
        ("LOG_FAILURES", "maybe", "true or false"),
    ],
)
def test_invalid_number_or_boolean_in_the_environment_is_refused(name, text, words):
    """The error names the variable and its value."""
    with pytest.raises(ConfigurationError, match=f"FIRELOCK_{name} must be {words}, got {text!r}"):
        Settings.from_environment(environment={f"FIRELOCK_{name}": text})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", True), ("On", True),
        ("0", False), (" FALSE ", False), ("off", False), ("no", False),
    ],
)  # fmt: skip
def test_boolean_setting_is_read_from_the_environment(text, expected):
    """The usual words for true and false are accepted."""
    settings = Settings.from_environment({}, {"FIRELOCK_LOG_FAILURES": text})

    assert settings.log_failures is expected
