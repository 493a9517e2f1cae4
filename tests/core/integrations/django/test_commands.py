"""Across modules: the commands of a Django project that uses Firelock."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys

import attrs
import pytest

from tests.core.integrations.django.projects import FOLDER, DjangoProject, sqlite_database

RUN_ALL = """
import json
from firelock.integrations.django import fire
from shop.models import Order
from shop.tasks import asend_receipt, draw_catalogue, send_receipt

order = Order.objects.create(buyer="ann")
with fire.server(workers=1):
    jobs = [send_receipt.enqueue(order.pk), asend_receipt.enqueue(order.pk), draw_catalogue.enqueue()]
    print(json.dumps([job.result(timeout=60) for job in jobs]))
fire.close()
"""


@pytest.fixture
def project(django_project):
    """Return the project with all data in one SQLite file that has the tables."""
    return django_project


def test_django_setup_registers_the_tasks_of_installed_apps(project):
    """The modules `tasks.py` and `jobs.py` of each app are imported by default."""
    listed = project.shell(
        "import json; from firelock.integrations.django import fire; "
        "print(json.dumps([task.name for task in fire.tasks()]))"
    )

    assert {"shop.tasks.send_receipt", "shop.tasks.asend_receipt", "shop.tasks.draw_catalogue"} <= set(listed)


@pytest.mark.heavy("starts two processes, one for a job")
def test_jobs_of_every_executor_can_use_models(project):
    """The models are loaded and the database is reachable in threads, coroutines and job processes."""
    assert ["ann", "ann", 1] == project.shell(RUN_ALL)


@pytest.mark.heavy("starts server processes")
@pytest.mark.parametrize("way", ["manage.py", "firelock"])
def test_both_commands_start_a_server(project, way, tmp_path):
    """The commands are `manage.py firelock server` and, with DJANGO_SETTINGS_MODULE set, `firelock server`.

    The first command works from any folder, and with --pythonpath. With DEBUG, Django has its own log
    handler, but each line appears in the server's log only once and in the server's format.
    """
    order = project.shell("from shop.models import Order; print(Order.objects.create(buyer='bob').pk)")
    words = [str(FOLDER / "manage.py"), "firelock"] if way == "manage.py" else ["-m", "firelock"]
    settings = {"DEBUG": "1"}
    folder, more = tmp_path, ["--pythonpath", str(tmp_path)]
    if way == "firelock":
        folder, more = FOLDER, []
        settings["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
    server = subprocess.Popen(
        [sys.executable, *words, "server", "--workers", "1", *more], cwd=folder,
        env=project.all_environment(settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip

    try:
        result = project.shell(
            "import json; from shop.tasks import send_receipt; "
            f"print(json.dumps(send_receipt.enqueue({order}).result(timeout=60)))"
        )
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=60)
    finally:
        server.kill()

    assert "bob" == result
    assert 0 == server.returncode, output
    (line,) = [line for line in output.splitlines() if "A receipt leaves the shop." in line]
    assert "INFO django.shop: A receipt leaves the shop. [job_id=" in line


def test_manage_py_commands_use_the_app_of_the_project(project):
    """The commands need neither --app nor --storage, and return the exit code."""
    assert [] == json.loads(project("firelock", "jobs", "list", "--json"))["jobs"]
    assert "no command 'job'" in project("firelock", "job", code=2)
    assert "firelock demo" in project("help", "firelock")


EAGER = [
    pytest.param({"SHOP_APPS": "eager", "EAGER": "enqueue"}, "jobs.py:17", id="enqueue"),
    pytest.param({"SHOP_APPS": "eager", "EAGER": "batch"}, "jobs.py:19", id="batch"),
    pytest.param({"SHOP_APPS": "eager.apps.ReadyConfig"}, "apps.py:24", id="ready"),
]


@pytest.mark.heavy("starts Django processes")
@pytest.mark.parametrize(("environment", "place"), EAGER)
def test_job_created_during_django_setup_is_refused(project, environment, place):
    """Each process of the project would create the job again, so the command fails and stores nothing."""
    only_jobs = {"database": "default", "autodiscover": ["jobs"]}
    eager = attrs.evolve(project, block=only_jobs)

    output = eager("migrate", code=1, **environment)
    other = eager.firelock("jobs", "list", code=2, **environment)

    line = output.strip().splitlines()[-1]
    assert "A job of eager.jobs.reindex cannot be created at " in line
    assert f"{place} while Django is being set up, because every process of the project" in line
    assert line.endswith("Move the call into a function.")
    assert "A job of eager.jobs.reindex cannot be created at " in other
    assert [] == json.loads(project("firelock", "jobs", "list", "--json"))["jobs"]


def test_jobs_can_be_created_after_django_setup(project):
    """Views, commands, tasks and threads can create jobs."""
    listed = project.shell(
        "import json; from firelock.integrations.django import fire; from shop.tasks import send_receipt; "
        "send_receipt.enqueue(1); print(json.dumps(fire.jobs.counts()['enqueued'])); fire.close()"
    )

    assert 1 == listed


@pytest.mark.heavy("starts Django processes")
@pytest.mark.parametrize("words", [["server"], ["jobs", "list"]])
def test_commands_with_wrong_settings_fail_and_list_all_mistakes(project, words):
    """This applies to `manage.py firelock` and `firelock`. Neither command shows a traceback."""
    wrong = attrs.evolve(project, block={"database": "defualt", "workres": 3})

    for output in (wrong("firelock", *words, code=2), wrong.firelock(*words, code=2)):
        assert "firelock: FIRELOCK in the settings has 2 mistakes:" in output
        assert "- FIRELOCK has an unknown key 'workres'." in output
        assert "- DATABASES does not contain 'defualt', the database for jobs; use one of default." in output
        assert "Traceback" not in output


def test_app_with_wrong_settings_fails_on_first_use(project):
    """Importing the app and registering its tasks does not fail."""
    wrong = attrs.evolve(project, block={"database": "default", "workres": 3})

    output = wrong.shell(
        "import json\nfrom firelock import ConfigurationError\n"
        "from firelock.integrations.django import fire, get_app, task\n"
        "from shop.tasks import send_receipt\ntexts = []\n"
        "for use in (lambda: send_receipt.enqueue(1), lambda: fire.jobs.get('x'), get_app):\n"
        "    try:\n        use()\n    except ConfigurationError as error:\n        texts.append(str(error))\n"
        "print(json.dumps(texts))"
    )

    assert 3 == len(output)
    assert 1 == len(set(output))
    assert output[0].startswith("FIRELOCK has an unknown key 'workres'.")


@pytest.mark.heavy("starts Django processes")
def test_suggested_commands_have_the_form_that_was_called(project):
    """Suggested commands use manage.py, or `firelock` if the environment selects the project.

    Both forms omit --app.
    """
    project.shell(
        "from shop.tasks import send_receipt; import json; print(json.dumps(send_receipt.enqueue(1).id))"
    )
    manage = f"python {shlex.quote(str(FOLDER / 'manage.py'))} firelock"

    doctor = project("firelock", "doctor", code=1)
    findings = json.loads(project("firelock", "doctor", "--json", code=1))["findings"]
    mistyped = project("firelock", "jobs", "lst", code=2)
    plain = project.firelock("doctor", code=1, PATH="")

    assert f"Start one: {manage} server\n" in doctor
    assert f"Start one: {manage} server" in [each["advice"] for each in findings]
    assert f"  Run {manage} jobs --help for its usage." in mistyped
    assert f"Start one: {shlex.quote(sys.executable)} -m firelock server\n" in plain


def test_error_without_django_setup_contains_a_hint(project):
    """The command line adds the hint to AppRegistryNotReady and similar errors."""
    output = project.run(["-m", "firelock", "jobs", "list", "--app", "shop.models:Order"], code=2)

    assert "Django is not set up. Set DJANGO_SETTINGS_MODULE" in output


def test_error_for_unimportable_settings_contains_the_variable(project):
    """The environment variable might be left over from another project."""
    output = project.firelock(
        "jobs", "list", "--app", "shop.tasks:task", code=2, DJANGO_SETTINGS_MODULE="gone.settings"
    )

    assert "Django cannot be set up with DJANGO_SETTINGS_MODULE=gone.settings" in output
    assert "No module named 'gone'" in output


@pytest.mark.heavy("starts Django's test runner")
def test_documented_test_cases_of_a_project_pass(tmp_path):
    """In sync and async TestCases, a Tester runs the jobs. Without a Tester, jobs stay in memory."""
    project = DjangoProject({"default": sqlite_database(tmp_path / "shop.db")}, {"database": "default"})

    output = project("test")

    assert "Ran 11 tests" in output
    assert "no issues" in output
    assert not (tmp_path / "shop.db").exists()


@pytest.mark.heavy("starts Django's test runner")
@pytest.mark.parametrize("more", [(), ("--parallel", "2")])
def test_transaction_tests_store_jobs_in_the_test_database(tmp_path, more):
    """The job tables are created, and each test starts without jobs.

    Each parallel process has its own database.
    """
    database = {**sqlite_database(tmp_path / "shop.db"), "TEST": {"NAME": str(tmp_path / "test.sqlite3")}}
    project = DjangoProject({"default": database}, {"database": "default", "test_storage": "database"})

    output = project("test", "shop.rollbacks", *more)

    assert "Ran 8 tests" in output
    assert "OK" in output


@pytest.mark.heavy("starts Django's test runner")
def test_jobs_are_removed_between_tests_with_another_storage(tmp_path):
    """The storage is configured with a URL, and its tables are created too."""
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    block = {"database": "default", "test_storage": url}
    project = DjangoProject({"default": sqlite_database(tmp_path / "shop.db")}, block)
    one = "RollbackTests.test_jobs_of_other_tests_are_removed"

    output = project("test", f"shop.rollbacks.{one}", f"shop.rollbacks.Other{one}")

    assert "Ran 2 tests" in output
    assert "OK" in output


def test_test_database_in_memory_cannot_store_jobs(tmp_path):
    """The error contains the setting that gives the database a file."""
    block = {"database": "default", "test_storage": "database"}
    project = DjangoProject({"default": sqlite_database(tmp_path / "shop.db")}, block)

    output = project("test", "shop.rollbacks", code=1)

    assert 'Use a file: DATABASES[\'default\']["TEST"] = {"NAME": BASE_DIR / "test.sqlite3"}.' in output


def test_help_shows_the_program_as_it_was_called(project):
    """This applies to both the usage line and the examples."""
    manage = f"python {shlex.quote(str(FOLDER / 'manage.py'))} firelock"

    output = project("firelock", "jobs", "move", "--help")
    all_output = project("firelock", "--help")

    assert output.startswith(f"usage: {manage} jobs move ")
    assert f"  {manage} jobs move 01a21072" in output
    assert all_output.startswith(f"usage: {manage} ")
    assert f"  {manage} doctor" in all_output


OF_CELERY = """
import json
from django.db import transaction
from mysite.celery_app import app
from celeried.tasks import buyer_of
from shop.models import Order

output = {}
try:
    with transaction.atomic():
        buyer_of.delay_on_commit(Order.objects.create(buyer="ann").pk)
        raise LookupError
except LookupError:
    output["rolled back"] = sum(app.fire.jobs.counts().values())
with transaction.atomic():
    buyer_of.delay_on_commit(Order.objects.create(buyer="ann").pk)
    output["open"] = sum(app.fire.jobs.counts().values())
with transaction.atomic():
    buyer_of.apply_async_on_commit((Order.objects.create(buyer="bob").pk,), queue="vip")
with app.fire.server(workers=1):
    output["results"] = [app.AsyncResult(job.id).get(timeout=60) for job in app.fire.jobs.find().jobs]
output["plugins"] = [info.name for info in app.fire.plugins.listing() if "Django" in info.name]
app.fire.close()
print(json.dumps(output))
"""


@pytest.mark.heavy("starts Django processes")
def test_celery_app_can_be_the_app_of_a_project(project, tmp_path):
    """The Celery app supports namespace="CELERY", shared tasks of Django apps and delay_on_commit.

    The commands of manage.py use the same jobs.
    """
    environment = {"SHOP_APPS": "celeried", "SHOP_CELERY": f"sqlite:///{tmp_path / 'celery.db'}"}
    celery = attrs.evolve(project, block={"app": "mysite.celery_app:app.fire"}, environment=environment)

    output = celery.shell(OF_CELERY)

    assert (0, 0) == (output["rolled back"], output["open"])
    assert {"ann", "bob"} == set(output["results"])
    assert 1 == len(output["plugins"])
    listed = json.loads(celery("firelock", "jobs", "list", "--json"))["jobs"]
    assert ["celeried.buyer_of"] * 2 == [job["task"] for job in listed]
    assert "no issues" in celery("check", "--tag", "firelock")
