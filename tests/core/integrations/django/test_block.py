"""The setting FIRELOCK of a Django project."""

from __future__ import annotations

from datetime import timedelta

import pytest

from firelock.integrations.django.block import Block, read_block


def mistakes(given, **more):
    return [f"{each.code}: {each}" for each in read_block(given, **more)[1]]


def test_setting_contains_the_options_of_the_app():
    """The setting supports strings, lists and every numeric setting under its own name."""
    given = {
        "database": "default", "plugins": ["shop.hooks.Tracing"], "queues": ["mail", "default"],
        "autodiscover": ["jobs"], "keep_succeeded": timedelta(days=7), "workers": 4,
    }  # fmt: skip

    block, wrong = read_block(given)

    assert wrong == []
    assert block == Block(
        database="default", plugins=("shop.hooks.Tracing",), queues="mail,default", autodiscover=("jobs",),
        numbers={"keep_succeeded": timedelta(days=7), "workers": 4},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], 'E001: FIRELOCK is list, no mapping. Write FIRELOCK = {"database": "default"}.'),
        (
            {"storge": "memory://", "database": "default"},
            "E002: FIRELOCK has a key 'storge' that Firelock does not know. Did you mean 'storage'?",
        ),
        ({"storage": 7}, "E003: FIRELOCK['storage'] is 7; it takes a text. Change it, or leave it out."),
        (
            {"storage": "memory://", "autodiscover": "jobs"},
            (
                "E003: FIRELOCK['autodiscover'] is 'jobs'; it takes a list of names of modules. "
                "Change it, or leave it out."
            ),
        ),
        (
            {},
            (
                'E004: FIRELOCK names no storage. Write FIRELOCK = {"database": "default"} for the tables of '
                'your database, or a URL: {"storage": "redis://…"}.'
            ),
        ),
        (
            {"storage": "memory://", "workers": -1},
            (
                "E005: Setting workers must be an integer from 0 to 10000, got -1. "
                "Change it in FIRELOCK, or leave it out."
            ),
        ),
        (
            {"app": "shop.jobs:fire", "storage": "memory://"},
            (
                "E006: FIRELOCK names an app, 'shop.jobs:fire', and 'storage' as well, which that app says "
                "itself. Take 'storage' out of FIRELOCK, and give it to Firelock(…) where the app is made."
            ),
        ),
        (
            {"app": "shop.jobs:fire", "workers": 4},
            (
                "E006: FIRELOCK names an app, 'shop.jobs:fire', and 'workers' as well, which that app says "
                "itself. Take 'workers' out of FIRELOCK, and give it to Firelock(settings=Settings(…)) where "
                "the app is made."
            ),
        ),
        (
            {"storage": "redis://cache/1", "test_storage": "redis://cache/1"},
            (
                "E011: FIRELOCK['test_storage'] is the storage itself, and tests empty it. Name one for "
                'tests alone, or write {"test_storage": "database"} for the test database.'
            ),
        ),
        ({"app": "shop"}, "E003: FIRELOCK['app'] is 'shop'. Write module:name, such as shop.jobs:fire."),
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
