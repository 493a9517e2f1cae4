"""The setting FIRELOCK of a Django project."""

from __future__ import annotations

from datetime import timedelta

import pytest

from firelock.integrations.django.block import Block, read_block


def mistakes(given, **more):
    return [f"{each.code}: {each}" for each in read_block(given, **more)[1]]


def test_setting_contains_the_options_of_the_app():
    """The setting accepts strings, lists and all numeric settings under their own names."""
    given = {
        "database": "default", "plugins": ["shop.hooks.Tracing"], "queues": ["mail", "default"],
        "autodiscover": ["jobs"], "keep_succeeded": timedelta(days=7), "workers": 4,
    }  # fmt: skip

    block, wrong = read_block(given)

    assert wrong == []
    assert block == Block(
        database="default", plugins=("shop.hooks.Tracing",), queues="mail,default", autodiscover=("jobs",),
        settings={"keep_succeeded": timedelta(days=7), "workers": 4},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], 'E001: FIRELOCK must be a mapping, got list. Use FIRELOCK = {"database": "default"}.'),
        (
            {"storge": "memory://", "database": "default"},
            "E002: FIRELOCK has an unknown key 'storge'. Did you mean 'storage'?",
        ),
        (
            {"storage": 7},
            "E003: FIRELOCK['storage'] must be a string, got 7. Change the value or remove the key.",
        ),
        (
            {"storage": "memory://", "autodiscover": "jobs"},
            (
                "E003: FIRELOCK['autodiscover'] must be a list of module names, got 'jobs'. "
                "Change the value or remove the key."
            ),
        ),
        (
            {},
            (
                'E004: FIRELOCK does not specify a storage. Use FIRELOCK = {"database": "default"} for '
                'tables in your database, or a URL: {"storage": "redis://…"}.'
            ),
        ),
        (
            {"storage": "memory://", "workers": -1},
            (
                "E005: Setting workers must be an integer from 0 to 10000, got -1. "
                "Change the value in FIRELOCK or remove the key."
            ),
        ),
        (
            {"app": "shop.jobs:fire", "storage": "memory://"},
            (
                "E006: FIRELOCK contains 'storage', which the app 'shop.jobs:fire' must set itself. "
                "Remove 'storage' from FIRELOCK, and pass it to Firelock(…) where the app is created."
            ),
        ),
        (
            {"app": "shop.jobs:fire", "workers": 4},
            (
                "E006: FIRELOCK contains 'workers', which the app 'shop.jobs:fire' must set itself. "
                "Remove 'workers' from FIRELOCK, and pass it to Firelock(settings=Settings(…)) where "
                "the app is created."
            ),
        ),
        (
            {"storage": "redis://cache/1", "test_storage": "redis://cache/1"},
            (
                "E011: FIRELOCK['test_storage'] must not be the same as FIRELOCK['storage'], because tests "
                "delete all its jobs. Use a separate storage for tests, or "
                '{"test_storage": "database"} for the test database.'
            ),
        ),
        (
            {"app": "shop"},
            (
                "E003: FIRELOCK['app'] must have the form module:name, got 'shop'. "
                'Use for example "shop.jobs:fire".'
            ),
        ),
    ],
)
def test_each_mistake_is_reported_with_its_fix(given, expected):
    """System checks and errors show the same messages."""
    assert [expected] == mistakes(given)


def test_all_mistakes_are_reported_together():
    """A user can fix all mistakes after one run."""
    assert ["E002", "E003", "E004"] == [each[:4] for each in mistakes({"storge": 1, "queues": 1})]


def test_storage_can_be_set_in_the_environment():
    """If FIRELOCK_STORAGE is set, a project does not need the setting FIRELOCK."""
    assert mistakes(None) != []
    assert mistakes(None, has_storage=True) == []
