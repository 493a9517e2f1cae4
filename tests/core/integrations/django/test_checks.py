"""The results of `manage.py check` about a project's jobs."""

from __future__ import annotations

import pytest

from tests.core.integrations.django.projects import DjangoProject, sqlite_database

IMMEDIATE = {"OPTIONS": {"transaction_mode": "IMMEDIATE"}}


@pytest.fixture
def check(tmp_path):
    """Return a function that runs `manage.py check`, expects the exit code `code`, and returns the output."""

    def run(block, *words, code=0, environment=None, **entry):
        databases = {"default": {**sqlite_database(tmp_path / "shop.db"), **entry}}
        given = {"SHOP_URLS": "mysite.bare_urls", **(environment or {})}
        return DjangoProject(databases, block)("check", *words, code=code, **given)

    return run


def test_each_mistake_in_the_setting_is_an_error(check):
    """One run reports all mistakes with their fixes, before any module of the project is imported."""
    output = check({"storge": "memory://", "workers": -1, "queues": 7}, code=1)

    for part in (
        "?: (firelock.E002) FIRELOCK has an unknown key 'storge'.",
        "HINT: Did you mean 'storage'?",
        "?: (firelock.E003) FIRELOCK['queues'] must be a string or a list of names, got 7.",
        "?: (firelock.E004) FIRELOCK does not specify a storage.",
        "?: (firelock.E005) Setting workers must be an integer from 0 to 10000, got -1",
    ):
        assert part in output


@pytest.mark.heavy("starts Django processes")
def test_all_mistakes_are_reported_even_if_views_import_the_app(check):
    """Wrong keys, aliases, plugins and schemes are reported in one run, without a traceback from a module."""
    block = {"storge": "x", "workres": 3, "database": "defualt", "plugins": ["shop.gone.Hooks"]}

    output = check(block, code=1, environment={"SHOP_URLS": "mysite.view_urls"})
    other = check({"storage": "mongo://x", "workres": 3}, code=1)

    for part in (
        "'storge'",
        "'workres'",
        "DATABASES does not contain 'defualt'",
        "'shop.gone.Hooks' in FIRELOCK['plugins'] cannot be",
    ):
        assert part in output
    assert "System check identified 4 issues" in output
    assert "Traceback" not in output
    assert "'workres'" in other
    assert "No storage for scheme 'mongo'" in other


@pytest.mark.heavy("starts Django processes")
def test_modules_that_fail_to_import_are_reported_together(check):
    """One module uses an option of another library; the other module creates a job in each process."""
    output = check({"database": "default"}, code=1, environment={"SHOP_APPS": "eager", "EAGER": "enqueue"})

    assert (
        "?: (firelock.E010) eager.tasks cannot be imported: A Firelock task has no option 'max_retries'; "
        "use retry=Retry(attempts=…)."
    ) in output
    assert (
        "?: (firelock.E010) eager.jobs cannot be imported: A job of eager.jobs.reindex cannot be created at "
    ) in output
    assert "Traceback" not in output


@pytest.mark.heavy("starts Django processes")
@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"storage": "mongo://x"}, "No storage for scheme 'mongo'"),
        (
            {"database": "gone"},
            "DATABASES does not contain 'gone', the database for jobs; use one of default.",
        ),
        (
            {"storage": "memory://", "plugins": ["shop.gone.Hooks"]},
            "'shop.gone.Hooks' in FIRELOCK['plugins'] cannot be",
        ),
        (
            {"app": "shop.models:Order"},
            "must name a Firelock app, but 'shop.models:Order' is of type ModelBase",
        ),
    ],
)
def test_failure_to_create_the_app_is_an_error(check, block, expected):
    """The message of the original exception is shown."""
    output = check(block, code=1)

    assert "(firelock.E007)" in output
    assert expected in output


@pytest.mark.heavy("starts Django processes")
def test_risky_settings_are_warnings(check):
    """The warnings are about persistent connections without health checks and about a missing plugin.

    Another warning is about SQLite, which would refuse transactions that read before they write.
    """
    output = check({"database": "default"}, CONN_MAX_AGE=60)
    own = check({"app": "shop.own:fire"}, **IMMEDIATE)
    elsewhere = check({"database": "default", "storage": "memory://"}, **IMMEDIATE)

    assert "(firelock.W003) Connections of database 'default' are persistent" in output
    assert "(firelock.W004) Transactions of database 'default' begin without a write lock" in output
    assert "(firelock.W001) The app 'shop.own:fire' does not close stale database connections" in own
    assert "(firelock.W002) FIRELOCK['database'] is 'default', but storage memory://" in elsewhere


@pytest.mark.heavy("starts Django processes")
def test_custom_app_that_does_not_join_transactions_is_reported(check):
    """If the app does not join, its first enqueue inside atomic() fails on SQLite.

    On other databases, its jobs are not part of the transaction.
    """
    output = check({"app": "shop.own_here:fire"}, **IMMEDIATE)
    joined = check({"app": "shop.own_here:fire"}, environment={"OWN_DATABASE": "default"}, **IMMEDIATE)
    named = check({"app": "shop.own_here:fire", "database": "default"}, code=1, **IMMEDIATE)

    assert "(firelock.W006) Jobs are stored in database 'default', but an enqueue does not join" in output
    assert "HINT: Create the app with Firelock(…, plugins=[DjangoPlugin(database='default')])." in output
    assert "no issues" in joined
    assert "(firelock.E006) FIRELOCK['database'] is 'default', but the app 'shop.own_here:fire'" in named
    assert "HINT: Create the app with plugins=[DjangoPlugin(database='default')]." in named


@pytest.mark.heavy("starts Django processes")
def test_celery_app_that_does_not_join_transactions_is_reported(check, tmp_path):
    """The hint shows the key to add to the setting."""
    celery = {"app": "mysite.celery_app:app.fire"}
    own = {"SHOP_APPS": "celeried", "SHOP_CELERY": f"sqlite:///{tmp_path / 'shop.db'}"}

    output = check(celery, environment=own, **IMMEDIATE)
    joined = check({**celery, "database": "default"}, environment=own, **IMMEDIATE)
    nowhere = check(celery, code=1, environment={"SHOP_APPS": "celeried"}, **IMMEDIATE)

    assert 'HINT: Set FIRELOCK = {"app": "mysite.celery_app:app.fire", "database": "default"}.' in output
    assert "no issues" in joined
    assert "(firelock.E007) The app has no broker, so it has no storage. Set broker_url " in nowhere
    assert "(CELERY_BROKER_URL in Django's settings) or FIRELOCK_STORAGE to the URL of a storage: " in nowhere
    assert ".." not in nowhere


@pytest.mark.heavy("starts Django processes")
def test_shared_tasks_without_an_app_are_reported(check):
    """The hint contains the module to create and the setting to change."""
    output = check({"database": "default"}, environment={"SHOP_APPS": "celeried"}, **IMMEDIATE)

    assert "(firelock.W007) Shared task 'celeried.buyer_of' has no app, so it cannot be called." in output
    assert "HINT: Create mysite/celery.py, as shown in docs/coming-from-celery.md" in output
    assert '{"app": "mysite.celery:app.fire", "database": "default"}' in output


@pytest.mark.heavy("starts Django processes")
def test_check_reports_nothing_for_a_correct_project(check):
    assert "no issues" in check({"database": "default"}, **IMMEDIATE)


@pytest.mark.heavy("starts Django processes")
def test_deploy_check_connects_to_the_storage(check, tmp_path):
    """The checks show whether the schema exists, and whether other processes can see the jobs."""
    missing = check({"database": "default"}, "--deploy", "--tag", "firelock", code=1, **IMMEDIATE)
    alone = check({"storage": "memory://"}, "--deploy", "--tag", "firelock")

    assert "(firelock.E009) Storage sqlite:///" in missing
    assert "Run python manage.py firelock migrate." in missing
    assert "(firelock.W005) Jobs in memory:// are visible only to one process" in alone
