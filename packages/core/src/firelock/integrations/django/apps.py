"""The Django app: it imports the modules with tasks when Django is set up."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import Error, register
from django.core.signals import setting_changed
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate
from django.utils.module_loading import module_has_submodule

from firelock.errors import FirelockError
from firelock.integrations.django.checks import check_deployment, check_project
from firelock.integrations.django.project import (
    change_storage,
    database_of_jobs,
    empty_test_storage,
    follow_test_database,
    get_app,
    is_testing,
    project_block,
)


def register_django_tasks() -> None:
    """Register all tasks that have been declared so far, if a backend in TASKS is Firelock's."""
    place = f"{FirelockConfig.name}.task_backend"
    backends = [each.get("BACKEND", "") for each in getattr(settings, "TASKS", {}).values()]
    if place in sys.modules or any(each.startswith(FirelockConfig.name) for each in backends):
        from firelock.integrations.django.task_backend import (  # noqa: PLC0415 - may be missing
            register_declared,
        )

        register_declared()


class FirelockConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """The app `firelock.integrations.django` in INSTALLED_APPS."""

    name = "firelock.integrations.django"
    label = "firelock"
    verbose_name = "Firelock"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the tasks of every installed app.

        If the settings are wrong, no task is imported. The system checks report every mistake, and so does
        each use of the app.
        """
        register(check_project, self.label)
        register(check_deployment, self.label, deploy=True)
        post_migrate.connect(_make_tables, sender=self)
        setting_changed.connect(_follow_setting)
        connection_created.connect(_follow_connection)
        try:
            get_app()
        except FirelockError:
            return
        import_tasks(project_block()[0].autodiscover)
        register_django_tasks()


def import_tasks(names: Sequence[str]) -> None:
    """Import the modules with these names from every installed app.

    With `manage.py check`, report all of Firelock's errors from these imports, then exit. Otherwise, raise
    the first of these errors.
    """
    errors: list[Error] = []
    for config in apps.get_app_configs():
        for name in names:
            if not module_has_submodule(config.module, name):
                continue
            module = f"{config.name}.{name}"
            try:
                import_module(module)
            except FirelockError as error:
                if sys.argv[1:2] != ["check"]:
                    raise
                hint = "Fix the module."
                errors.append(Error(f"{module} cannot be imported: {error}", hint=hint, id="firelock.E010"))
    # The command must end here. Otherwise modules of views would import these modules again after the setup.
    if errors:
        listed = "\n".join(map(str, errors))
        sys.exit(f"SystemCheckError: System check identified some issues:\n\nERRORS:\n{listed}")


def _make_tables(using: str, verbosity: int, **_: object) -> None:
    """Create the job tables in `manage.py migrate` as well, if jobs are stored in the migrated database.

    When Django's tests migrate their separate database, the app switches to the storage for tests. The tests
    flush this database after each TransactionTestCase, and flushing it also calls this function. Therefore no
    jobs of a test are left for the next test.
    """
    if project_block()[1]:
        return
    if is_testing():
        empty_test_storage(using)
    elif using == database_of_jobs():
        for migration in get_app().storage.migrate():
            if verbosity:
                print(f"  Firelock: {migration}")  # noqa: T201 - as `migrate` prints its own migrations


def _follow_connection(connection: BaseDatabaseWrapper, **_: object) -> None:
    """If tests run in parallel processes, use this process's own test database for jobs."""
    follow_test_database(connection.alias)


def _follow_setting(setting: str, **_: object) -> None:
    """If a test overrides the block FIRELOCK, use the storage of that block."""
    if setting == "FIRELOCK":
        change_storage()
