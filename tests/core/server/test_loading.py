"""Loading an app by a name that a user has entered, and naming it so that another process can load it."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from firelock import Firelock
from firelock.errors import ConfigurationError
from firelock.server.embedded import locate_app
from firelock.server.loading import load_app, load_module
from tests.core.fakes import unmeasured

APP = """
from firelock import Firelock
fire = Firelock("memory://")
class place:
    inner = fire
@fire.task
def send(): ...
"""


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch, tmp_path):
    """Run the test in its own folder, and restore modules and path afterwards."""
    modules, path = dict(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)
    sys.path[:] = path


@pytest.fixture
def write(tmp_path):
    """A function that writes a file in the working folder."""

    def write(name, text=APP):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_app_is_found_in_a_module_of_the_working_folder(write):
    """`module:name` is accepted, and both the name and the module may be dotted."""
    write("shop_of_test.py")
    write("package_of_test/__init__.py", "")
    write("package_of_test/jobs.py")

    specs = ("shop_of_test:fire", "shop_of_test:place.inner", "package_of_test.jobs:fire")
    apps = [load_app(spec) for spec in specs]

    assert apps[0] is apps[1] is sys.modules["shop_of_test"].fire
    assert apps[2] is sys.modules["package_of_test.jobs"].fire


def test_app_is_found_in_a_file(write, tmp_path):
    """The app is loaded once, as a module with the stem of the file.

    Its tasks therefore have the same names as if the file ran as `__main__`.
    """
    path = write("elsewhere/script_of_test.py")

    app, again = load_app(f"{path}:fire"), load_app("elsewhere/script_of_test.py:fire")

    assert app is again
    assert ["script_of_test.send"] == [task.name for task in app.tasks()]
    assert str(tmp_path / "elsewhere") in sys.path


def test_files_with_equal_names_in_two_folders_are_different_modules(write):
    """If two files have the same stem, the requested file is loaded."""
    one, other = load_app(f"{write('a/app_of_test.py')}:fire"), load_app(f"{write('b/app_of_test.py')}:fire")

    assert one is not other


def test_file_must_not_shadow_the_standard_library(write):
    """Every import of json would load a file that is named json.py."""
    path = write("json.py")

    with pytest.raises(
        ConfigurationError,
        match=r"'.*json\.py' has the name of a module in Python's standard library; rename it",
    ):
        load_app(f"{path}:fire")

    import json

    assert json.dumps(1) == "1"


def test_storage_option_replaces_the_storage_of_the_app(write):
    write("shop_of_test.py")

    app = load_app("shop_of_test:fire", storage="memory://elsewhere")

    assert "memory://elsewhere" == app.storage.url


def test_imports_of_an_app_are_loaded(write):
    """Imported modules register the app's tasks. Modules in the working folder are found as well."""
    text = 'from firelock import Firelock\nfire = Firelock("memory://", imports=["tasks_of_test"])\n'
    write("shop_of_test.py", text)
    write("tasks_of_test.py", "from shop_of_test import fire\n@fire.task\ndef send(): ...\n")

    assert ["tasks_of_test.send"] == [task.name for task in load_app("shop_of_test:fire").tasks()]


@pytest.mark.parametrize("spec", ["", "shop", "shop:", ":fire", "shop.py", ":"])
def test_invalid_app_name_raises_an_error(spec):
    """The error shows the required form of the name."""
    with pytest.raises(ConfigurationError, match=f"'{spec}' is not the name of an app; use module:name"):
        load_app(spec)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            "nowhere_of_test:fire",
            "No module 'nowhere_of_test' in this folder .* or installed; check the name and the folder",
        ),
        ("nowhere_of_test.jobs:fire", r"No module 'nowhere_of_test\.jobs' in this folder"),
        ("nowhere/app.py:fire", r"File 'nowhere/app\.py' does not exist"),
        ("folder_of_test.py:fire", r"File 'folder_of_test\.py' does not exist"),
        (
            "shop_of_test:nobody",
            r"^Module shop_of_test has no 'nobody'; its app is named 'fire': shop_of_test:fire\.$",
        ),
        (
            "shop_of_test:send.nobody",
            r"^'send' in module shop_of_test has no 'nobody'; its app is named 'fire': shop_of_test:fire\.$",
        ),
        (
            "shop_of_test.py:nobody",
            r"^File shop_of_test\.py has no 'nobody'; its app .*: shop_of_test\.py:fire\.$",
        ),
        (
            "shop_of_test:send",
            r"^'send' in module shop_of_test is Task, not a Firelock; its app is .*: shop_of_test:fire\.$",
        ),
        (
            "two_of_test:app",
            r"^Module two_of_test has no 'app'; its apps are two_of_test:mail and two_of_test:shop\.$",
        ),
        (
            "none_of_test:appp",
            r"^Module none_of_test has no 'appp'; did you mean 'app' or 'apple'\? No Firelock is defined",
        ),
        (
            "none_of_test:fire",
            r"^Module none_of_test has no 'fire'\. No Firelock is defined there; add fire = Firelock\(…\), ",
        ),
        (
            "none_of_test:app",
            r"^'app' in module none_of_test is NoneType, not a Firelock\. No Firelock is defined there",
        ),
    ],
)
def test_missing_module_file_or_attribute_is_reported(write, spec, words):
    """The error names the missing module, file or attribute and the available apps."""
    write("shop_of_test.py")
    write(
        "two_of_test.py",
        'from firelock import Firelock\nshop = Firelock("memory://a")\nmail = Firelock("memory://b")\n',
    )
    write("none_of_test.py", "app = None\napple = 1\n")
    write("folder_of_test.py/x.txt")

    with pytest.raises(ConfigurationError, match=words):
        load_app(spec)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_module_of_test\n", r"broken_of_test\.py:1: ModuleNotFoundError: No module named"),
        ("\n\nraise RuntimeError('boom')\n", r"broken_of_test\.py:3: RuntimeError: boom"),
        ("def f(:\n", r"broken_of_test\.py:1: SyntaxError"),
        ("import json\njson.loads('{')\n", r"JSONDecodeError"),
    ],
)
@pytest.mark.parametrize("spec", ["broken_of_test:fire", "broken_of_test.py:fire"])
def test_error_in_a_module_is_reported_with_its_line(write, spec, text, words):
    """The next attempt does not treat the failed module as loaded."""
    write("broken_of_test.py", text)

    for _ in range(2):
        with pytest.raises(ConfigurationError, match=f"(?s)Importing '.*broken_of_test.*' failed.*{words}"):
            load_app(spec)

    assert "broken_of_test" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        "from django.contrib.auth.models import User\n",  # settings are not configured
        "import django.conf\ndjango.conf.settings.configure()\nfrom django.contrib.auth.models import User\n",
    ],
)
def test_module_that_needs_django_setup_gets_a_hint(write, text):
    """The hint is the same if settings are missing or `django.setup()` has not been called."""
    write("broken_of_test.py", text)

    run = subprocess.run(
        [sys.executable, "-m", "firelock", "server", "broken_of_test:fire"],
        env=unmeasured(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert 2 == run.returncode
    assert "Importing 'broken_of_test' failed at " in run.stderr
    assert (
        "Django is not set up. Set DJANGO_SETTINGS_MODULE or run python manage.py firelock …, which set it "
        "up; without a settings module, call django.setup() before models are imported." in run.stderr
    )


def test_firelock_error_in_a_module_is_reported_with_the_module_line(write):
    """The error is one sentence and contains a line of the module, not a line of Firelock."""
    write("broken_of_test.py", APP + "fire.task(name='say')(print)\n")

    with pytest.raises(ConfigurationError) as caught:
        load_app("broken_of_test:fire")

    assert "broken_of_test.py:8: TaskError: print cannot be a task" in str(caught.value)
    assert not str(caught.value).endswith("..")


def test_configuration_error_of_an_app_is_not_wrapped(write):
    """The app's own error message is clearer than a message that wraps it."""
    text = "from firelock import Firelock\nfire = Firelock('nonsense')\n"
    write("broken_of_test.py", text)

    for spec in ("broken_of_test:fire", "broken_of_test.py:fire"):
        with pytest.raises(ConfigurationError, match=r"^'nonsense' is not a storage URL"):
            load_app(spec)


def test_working_folder_is_added_to_the_path_once(write):
    write("tasks_of_test.py", "")

    load_module("tasks_of_test")
    before = list(sys.path)
    load_module("tasks_of_test")

    assert before == sys.path


# ---- the name of an app ----------------------------------------------------------------------------------


def test_name_of_an_app_contains_its_module(write):
    """Loading the name returns the same app."""
    write("shop_of_test.py")
    app = load_app("shop_of_test:fire")

    spec = locate_app(app)

    assert "shop_of_test:fire" == spec
    assert app is load_app(spec)


def test_name_of_an_app_in_the_main_program_contains_its_file(write, monkeypatch):
    """In another process, `__main__` is another module."""
    main = sys.modules["__main__"]
    with Firelock("memory://") as app:
        monkeypatch.setattr(main, "fire_of_test", app, raising=False)
        monkeypatch.setattr(main, "__file__", str(write("main_of_test.py")), raising=False)
        monkeypatch.setitem(sys.modules, "__mp_main__", main)
        named = locate_app(app)
        monkeypatch.delattr(main, "__file__")
        unnamed = locate_app(app)

    assert named.endswith("/main_of_test.py:fire_of_test")
    assert unnamed is None


def test_app_outside_of_a_module_has_no_name():
    """Another process could not load an app that is not in a module."""
    with Firelock("memory://") as app:
        assert locate_app(app) is None
