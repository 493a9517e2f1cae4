"""The command line as a whole: how it finds its storage, its exit codes and its messages."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from firelock import Firelock
from firelock.cli import main
from firelock.cli.called import as_called, called_as
from tests.core.fakes import unmeasured

HEAVY = ("rich", "sqlalchemy", "cattrs", "croniter", "firelock.app", "sqlite3")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def queue_of():
    """Return a function that opens a storage with this name and a single queue of the same name."""
    opened = []

    def open_one(name):
        app = Firelock(f"memory://{name}")
        app.queues.pause(name)
        opened.append(app)
        return app.storage.url

    yield open_one
    for app in opened:
        app.close()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a distribution with one module as the only plugin."""

    def install_one(name, source):
        site = tmp_path / "site"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[firelock]\n{name} = {name}_plugin\n")
        text = "from firelock import Command, hookimpl\n" + textwrap.dedent(source)
        (site / f"{name}_plugin.py").write_text(text)
        monkeypatch.delitem(sys.modules, f"{name}_plugin", raising=False)  # from another test
        monkeypatch.syspath_prepend(site)
        monkeypatch.setenv("FIRELOCK_PLUGINS", name)

    return install_one


def queues_seen(ran):
    return [queue["name"] for queue in ran.json["queues"]]


# ---- help ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "",
        "server",
        "demo",
        "jobs list",
        "jobs show",
        "jobs counts",
        "jobs requeue",
        "jobs delete",
        "recurring list",
        "recurring trigger",
        "recurring pause",
        "recurring resume",
        "recurring remove",
        "recurring next",
        "queues list",
        "queues pause",
        "queues resume",
        "servers list",
        "migrate",
        "doctor",
        "plugins",
        "version",
    ],
    ids=str,
)
def test_every_command_has_a_help_text(run, words):
    """The help text lists the command's arguments and the options for the storage."""
    ran = run(words, "--help")

    assert ran.code == 0
    assert "--storage URL" in ran.out
    assert ran.error == ""


def test_program_without_arguments_prints_its_help(run):
    """The output is the same as with --help."""
    bare, requested = run(), run("--help")

    assert bare == requested
    assert "requeue" in bare.out


def test_help_does_not_import_large_packages(run):
    """The help does not import a terminal library, a driver or an application."""
    code = (
        "import sys; from firelock.cli import main; main(['--help']); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )

    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=unmeasured()
    )

    assert ran.stderr == "[]\n"


def test_python_m_firelock_runs_the_command_line(run):
    """`python -m firelock` runs the same program as `firelock`."""
    ran = subprocess.run(
        [sys.executable, "-m", "firelock", "version", "--json"], capture_output=True, text=True, check=True
    )

    assert "firelock" in json.loads(ran.stdout)


# ---- usage -----------------------------------------------------------------------------------------------


def test_unknown_command_suggests_a_similar_one(run):
    """A misspelled command is a usage error, and the message suggests a similar command."""
    ran = run("recuring list")

    assert ran.code == 2
    assert ran.error == (
        "firelock has no command 'recuring'.\n"
        "  Did you mean recurring? Run firelock --help to list the commands.\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("jobs", "a command is missing"),
        ("jobs list --limit 0", "must be an integer from 1 to 500"),
        ("jobs list --state done", "invalid choice: 'done'"),
        ("jobs list --colour", "unrecognized arguments: --colour"),
        ("jobs show", "required: ID"),
        ("demo --seconds soon", "must be a number of seconds from 3 to 600"),
        ("migrate down", "invalid choice: 'down'"),
    ],
)
def test_invalid_argument_is_a_usage_error(run, words, message):
    """The error is one line with a hint, and the exit code is 2."""
    ran = run(words)

    assert ran.code == 2
    assert ran.out == ""
    assert message in ran.error.splitlines()[0]
    assert "--help for its usage" in ran.error.splitlines()[1]


# ---- storage ---------------------------------------------------------------------------------------------


def test_missing_storage_explains_how_to_set_one(run):
    ran = run("queues list")

    assert ran.code == 2
    for way in ("--storage", "--app", "FIRELOCK_STORAGE", "[tool.firelock]"):
        assert way in ran.error


def test_precedence_of_storage_settings(run, monkeypatch, tmp_path, queue_of):
    """The order of precedence is --storage, --app, FIRELOCK_STORAGE and pyproject.toml."""
    option, own, environment, project = (
        queue_of(name) for name in ("option", "own", "environment", "project")
    )
    module = tmp_path / "ordered_shop.py"
    module.write_text(f"from firelock import Firelock\nfire = Firelock({own!r})\n")
    (tmp_path / "pyproject.toml").write_text(f'[tool.firelock]\nstorage = "{project}"\n')
    app = ["--app", f"{module}:fire"]
    listing = "queues list --json"

    from_project = run(listing)
    monkeypatch.setenv("FIRELOCK_STORAGE", environment)
    from_environment = run(listing)
    from_app = run(listing, *app)
    from_option = run(listing, *app, "--storage", option)

    assert queues_seen(from_project) == ["project"]
    assert queues_seen(from_environment) == ["environment"]
    assert queues_seen(from_app) == ["own"]
    assert queues_seen(from_option) == ["option"]


def test_app_of_the_project_file_is_used(run, tmp_path, queue_of):
    """`app` in pyproject.toml is used if nothing else names a storage."""
    url = queue_of("theirs")
    (tmp_path / "their_shop.py").write_text(f"from firelock import Firelock\nfire = Firelock({url!r})\n")
    (tmp_path / "pyproject.toml").write_text('[tool.firelock]\napp = "their_shop.py:fire"\n')

    ran = run("queues list --json")

    assert queues_seen(ran) == ["theirs"]


def test_settings_of_the_project_file_apply_to_the_app(run, tmp_path):
    """A setting in pyproject.toml applies if the app does not set it. The environment does not change."""
    (tmp_path / "set_shop.py").write_text(
        "from firelock import Firelock\nfire = Firelock('memory://set')\nassert fire.settings.poll == 0.25\n"
    )
    (tmp_path / "pyproject.toml").write_text("[tool.firelock]\npoll = 0.25\n")

    ran = run("queues list --app set_shop.py:fire")

    assert ran.code == 0
    assert "FIRELOCK_POLL" not in os.environ


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.firelock\n", "cannot be read"),
        ("[tool.firelock]\nheartbeet = 3\n", "an unknown key 'heartbeet'"),
        ("[tool.firelock]\nstorage = 3\n", "must be a string, got 3"),
        ("[tool]\nfirelock = 3\n", "must be a table"),
        (
            '[tool.firelock]\nstorage = "memory://"\nheartbeat = "often"\n',
            "Setting heartbeat must be a number from 0.1 to 1200, got 'often'",
        ),
    ],
)
def test_invalid_project_file_is_a_usage_error(run, tmp_path, text, message):
    """Invalid content of pyproject.toml is always reported and never ignored."""
    (tmp_path / "pyproject.toml").write_text(text)

    ran = run("queues list")

    assert ran.code == 2
    assert message in ran.error


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("1 / 0\n", "odd_shop.py:1: ZeroDivisionError: division by zero"),
        (
            "def __getattr__(name):\n    raise RuntimeError('no licence' if name == 'fire' else name)\n",
            "RuntimeError: no licence",
        ),
    ],
    ids=["imported", "made on demand"],
)
def test_error_of_the_application_shows_its_own_lines(run, tmp_path, source, lines):
    """If importing or finding the app fails, the message and the app's part of the traceback are shown."""
    (tmp_path / "odd_shop.py").write_text(source)

    ran = run("queues list --app odd_shop.py:fire")

    assert ran.code == 2
    assert "odd_shop.py" in ran.error
    assert "loading.py" not in ran.error
    assert lines in ran.error


def test_file_that_is_not_a_database_counts_as_unreachable(run, tmp_path):
    """As for any unreachable storage, the exit code is 3 and the hint is to run `firelock doctor`."""
    (tmp_path / "letter.db").write_text("Dear Sir or Madam, " * 20)

    ran = run("queues list --storage sqlite:///letter.db")

    assert ran.code == 3
    assert "file is not a database" in ran.error.splitlines()[0]
    assert ran.error.splitlines()[1] == "  Run firelock doctor for details."


@pytest.mark.parametrize("scheme", ["sqlite+x", "postgresql+x", "mysql+x", "oracle", "rediss+x", "mongodb"])
def test_hints_name_only_existing_extras(run, scheme):
    """Hints to install an extra contain only extras that Firelock provides."""
    offered = importlib.metadata.metadata("firelock").get_all("Provides-Extra")

    ran = run("queues list --storage", f"{scheme}://host/db")

    assert ran.code == 2
    assert "install" in ran.error.lower()
    assert set(re.findall(r"firelock\[(\w+)\]", ran.error)) <= set(offered)


# ---- exit codes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("queues list --storage memory://", 0),
        ("queues pause 'no such' --storage memory://", 2),
        ("queues list --storage mongo://there", 2),
        ("queues list --storage nonsense", 2),
        ("queues list --storage 'memory://['", 2),
        ("queues list --storage 'sqlite://[/jobs.db'", 2),
        ("jobs list --cursor nowhere --storage memory://", 1),
        ("queues list --app no_such_module:fire", 2),
        ("queues list --storage sqlite:////no/such/folder/jobs.db", 3),
        ("jobs show no-such-job --storage memory://", 4),
        ("jobs requeue no-such-job --storage memory://", 4),
        ("recurring trigger no-such --storage memory://", 4),
        ("dashboard app:fire", 2),
    ],
)
def test_exit_codes_are_stable(run, words, code):
    """The code is 0 for success, 2 for wrong usage, 3 for an unreachable storage, and 4 for "not found".

    An error is a sentence without a traceback.
    """
    ran = run(words)

    assert ran.code == code
    assert "Traceback" not in ran.error


RAISER = """
    def run(options):
        import sys
        from firelock import errors
        {line}

    @hookimpl
    def register_commands():
        return [Command("stumble", "Stumble.", lambda parser: None, run)]
"""


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("raise errors.StorageUnavailable('Away.')", 3, "firelock: Away.\n  Check that it runs"),
        ("raise errors.JobNotFound('Gone.')", 4, "firelock: Gone.\n"),
        ("raise errors.ScheduleError('Never.')", 2, "firelock: Never.\n"),
        ("raise errors.UnknownTask('Unknown.')", 2, "firelock: Unknown.\n"),
        ("raise errors.SchemaMismatch('Newer.')", 1, "firelock: Newer.\n"),
        ("raise errors.JobConflict('Two lines,\\nno more.')", 1, "firelock: Two lines,\nno more.\n"),
        ("sys.exit(7)", 7, ""),
        ("sys.exit()", 0, ""),
    ],
)
def test_firelock_error_of_a_command_sets_its_exit_code(run, install, line, code, message):
    """An error of Firelock is printed as a sentence, and the exit code depends on the kind of error.

    `sys.exit()` keeps its code.
    """
    install("stumbling", RAISER.format(line=line))

    ran = run("stumble")

    assert (ran.code, ran.out) == (code, "")
    assert ran.error.startswith(message)
    assert bool(ran.error) == bool(message)


@pytest.mark.parametrize(
    ("line", "error"), [("raise RuntimeError('broken')", RuntimeError), ("sys.exit('broken')", SystemExit)]
)
def test_other_exception_of_a_command_is_raised(install, line, error):
    """A bug in a command shows its traceback, and Python prints the message of a `SystemExit`."""
    install("stumbling", RAISER.format(line=line))

    with pytest.raises(error, match="broken"):
        main(["stumble"])


def test_interrupt_prints_no_message(run, install):
    """Ctrl-C ends a command with exit code 130."""
    install(
        "interrupted",
        """
        def run(options):
            raise KeyboardInterrupt

        @hookimpl
        def register_commands():
            return [Command("wait", "Wait.", lambda parser: None, run)]
        """,
    )

    ran = run("wait")

    assert (ran.code, ran.out, ran.error) == (130, "", "")


@pytest.fixture
def unread():
    """A pipe whose reader has closed it."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def run_apart(words, **streams):
    """Run a command line of a shell in its own process, with output buffered as for any pipe."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    script = f"exec {shlex.quote(sys.executable)} -m firelock {words}"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(["sh", "-c", script], env=buffered, text=True, check=False, **streams)


@pytest.mark.parametrize("words", ["--help", "jobs list --help", "version"])
def test_closed_pipe_is_not_an_error(unread, words):
    """`firelock … | head` ends without an error, whether argparse or a command writes the output."""
    ran = run_apart(words, stdout=unread)

    assert (ran.returncode, ran.stderr) == (0, "")


def test_exit_code_does_not_depend_on_whether_the_output_is_read(tmp_path, unread):
    """The exit code of the doctor reports errors even if no program reads its output."""
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    with Firelock(url) as app:
        app.task(name="shop.add")(lambda: None).enqueue()
    words = f"doctor --storage {shlex.quote(url)}"

    read, ran = run_apart(words), run_apart(words, stdout=unread)

    assert "1 error" in read.stdout
    assert (read.returncode, ran.returncode, ran.stderr) == (1, 1, "")


def test_full_disk_is_an_error():
    """If the output of a command cannot be written, the command fails with a message."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ran = run_apart("version", stdout=full)

    message = "firelock: Cannot write to standard output: No space left on device.\n"
    assert (ran.returncode, ran.stderr) == (1, message)


@pytest.fixture
def unread_app(monkeypatch, unread):
    """An app with jobs for standard output that has no reader."""
    with (
        Firelock("memory://unread") as app,
        os.fdopen(os.dup(unread), "w") as out,
        monkeypatch.context() as patched,
    ):
        patched.setattr("sys.stdout", out)
        yield app


def test_long_output_to_a_closed_pipe_is_not_an_error(capsys, unread_app):
    """The command ends without an error even if its output is larger than the buffer."""
    unread_app.task(name="shop.add")(lambda number: None).enqueue_many([(number,) for number in range(200)])

    code = main(["jobs", "list", "--limit", "200", "--storage", "memory://unread"])

    assert (code, capsys.readouterr().err) == (0, "")


def test_error_is_printed_although_the_output_is_not_read(capsys, unread_app):
    """If no program reads the output, the output is lost, but the error is printed and sets the exit code."""
    unread_app.task(name="shop.add")(lambda: None).recur("nightly", "0 2 * * *")

    code = main(["recurring", "pause", "nightly", "nothing", "--storage", "memory://unread"])

    assert code == 4
    assert capsys.readouterr().err == "firelock: Recurring job 'nothing' was not found.\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("version >&-", 0, ""),
        ("queues list --storage nonsense >&-", 2, "firelock: 'nonsense' is not a storage URL"),
        ("queues list --storage nonsense 2>&-", 2, ""),
        ("queues list --storage nonsense >&- 2>&-", 2, ""),
    ],
)
def test_closed_standard_streams_are_not_an_error(words, code, message):
    """If a command is started without standard output or standard error, its exit code does not change."""
    ran = run_apart(words)

    assert (ran.returncode, ran.stdout) == (code, "")
    assert ran.stderr.startswith(message)
    assert len(ran.stderr.splitlines()) == bool(message)


# ---- commands of plugins ---------------------------------------------------------------------------------


SWEEPER = """
    def configure(parser):
        parser.add_argument("--app", metavar="TEXT", help="its own word, all of it")
        parser.add_argument("what")

    def sweep(options):
        print(options.what, options.app, options.storage, type(options.open_app()).__name__)
        return 7

    @hookimpl
    def register_commands():
        return [Command("sweep", "Sweep 100% of it.", configure, sweep)]
"""
TAKER = """
    @hookimpl
    def register_commands():
        return [Command("jobs", "Mine.", lambda parser: None, lambda options: 0)]
"""


def test_command_of_a_plugin_runs(run, install):
    """The command has its own and the common arguments.

    It opens the app that they name, and is listed in the help.
    """
    install("sweeper", SWEEPER)

    ran = run("--storage memory://swept sweep floor")

    assert ran.code == 7
    assert ran.out == "floor None memory://swept Firelock\n"
    assert "Sweep 100% of it." in run("--help").out


def test_plugin_cannot_replace_a_built_in_command(run, install):
    """The error names the plugin. The help and the built-in commands still work."""
    install("taker", TAKER)

    helped, ours = run("--help"), run("queues list --storage memory://")

    assert (0, 0) == (helped.code, ours.code)
    assert (
        "'taker' of taker 1.0 offers a command named 'jobs', but this name is already in use" in helped.error
    )
    assert "FIRELOCK_PLUGINS=-taker" in helped.error


def test_broken_plugins_are_listed_with_their_problems(run, install, monkeypatch):
    """Each broken plugin is listed with its problem, and the exit code shows that a plugin is broken."""
    install("cracked", "1 / 0")
    install("sweeper", SWEEPER)
    monkeypatch.setenv("FIRELOCK_PLUGINS", "cracked,sweeper")

    text, answer = run("plugins"), run("plugins --json")

    assert (1, 1) == (text.code, answer.code)
    assert "Plugin 'cracked' of cracked 1.0 failed to load: ZeroDivisionError" in text.out
    assert "FIRELOCK_PLUGINS=-cracked" in text.out
    assert ["cracked", "cracked", "1.0", "broken"] in [line.split() for line in text.out.splitlines()]
    assert ["sweeper", "core"] == [each["name"] for each in answer.json["plugins"]]
    [broken] = answer.json["broken"]
    assert ("cracked", "cracked", "1.0") == (broken["name"], broken["distribution"], broken["version"])


def test_broken_plugin_does_not_break_the_help(run, install):
    """The help does not list the plugin's command, but reports the plugin.

    Other commands explain how to disable it.
    """
    install("cracked", "1 / 0")

    helped, versions, listed = run("--help"), run("version"), run("jobs list --storage memory://")

    assert (0, 0, 2) == (helped.code, versions.code, listed.code)
    assert "Plugin 'cracked' of cracked 1.0 failed to load" in helped.error
    assert "FIRELOCK_PLUGINS=-cracked" in listed.error


@pytest.mark.parametrize(
    "source",
    [
        "@hookimpl\ndef register_commands():\n    return [('greet', 'x')]\n",
        (
            "@hookimpl\ndef register_commands():\n"
            "    return [Command('greet', 'Say.', lambda parser: 1 / 0, lambda options: 0)]\n"
        ),
    ],
    ids=["no command", "configure raises"],
)
def test_invalid_command_of_a_plugin_prints_no_traceback(run, install, source):
    """Neither the help nor a call of the command prints a traceback."""
    install("greeter", source)

    helped, called = run("--help"), run("greet")

    assert (0, 2) == (helped.code, called.code)
    for ran in (helped, called):
        assert "Plugin 'greeter' of greeter 1.0 " in ran.error
        assert "FIRELOCK_PLUGINS=-greeter" in ran.error
        assert "Traceback" not in ran.error


def test_dashboard_command_replaces_its_hint(run, install):
    """If a plugin provides this command, it is used instead of the built-in hint."""
    install(
        "board",
        """
        @hookimpl
        def register_commands():
            return [Command("dashboard", "Show.", lambda parser: None, lambda options: print("shown") or 0)]
        """,
    )

    ran = run("dashboard")

    assert (ran.code, ran.out) == (0, "shown\n")


# ---- versions and plugins --------------------------------------------------------------------------------


def test_plugins_are_listed_with_their_hooks(run):
    """The plugin that is part of the core is listed like any other."""
    ran = run("plugins --json")

    core = next(plugin for plugin in ran.json["plugins"] if plugin["name"] == "core")
    assert core["distribution"] == "firelock"
    assert "register_storages" in core["hooks"]


def test_plugins_are_listed_in_the_order_of_their_hooks(run, install):
    """The hooks of installed plugins run first, and those of the core's own plugin run last.

    Each line contains the name, distribution, version and hooks of a plugin.
    """
    install("sweeper", SWEEPER)

    ran = run("plugins")

    title, first, last = ran.out.splitlines()
    assert title.split() == ["PLUGIN", "FROM", "VERSION", "HOOKS"]
    assert first.split() == ["sweeper", "sweeper", "1.0", "register_commands"]
    assert last.split() == ["core", "firelock", "register_serializers,", "register_storages"]


def test_plugins_of_the_app_are_listed(run, tmp_path):
    """With --app, the app's plugins are listed between the installed ones and the core's own."""
    (tmp_path / "plugged_shop.py").write_text(
        "from firelock import Firelock, hookimpl\n"
        "class Counting:\n    @hookimpl\n    def jobs_created(self, jobs): ...\n"
        "fire = Firelock('memory://', plugins=[Counting])\n"
    )

    ran = run("plugins --json --app plugged_shop.py:fire")

    *_, counting, core = ran.json["plugins"]
    assert core["name"] == "core"
    assert counting == {
        "name": "Counting#0", "distribution": "app", "version": "", "hooks": ["jobs_created"],
    }  # fmt: skip


def test_version_lists_installed_packages(run, monkeypatch, tmp_path):
    """The output contains the versions of Firelock's installed packages and of Python."""
    for name, version in (("firelock", "9.8"), ("firelock_sql", "9.7"), ("another", "1.0")):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.setattr("sys.path", [str(tmp_path), *(one for one in sys.path if "-packages" not in one)])

    text, answer = run("version"), run("version --json")

    expected = {"firelock": "9.8", "firelock-sql": "9.7", "python": platform.python_version()}
    assert answer.json == {**expected, "plugins": []}
    assert dict(line.split() for line in text.out.splitlines()) == expected


def test_version_lists_the_packages_of_plugins(run, install):
    """The versions of these packages are needed for support requests."""
    install("sweeper", SWEEPER)

    text, answer = run("version"), run("version --json")

    assert "sweeper 1.0 (plugin sweeper)" in " ".join(text.out.split())
    assert {"name": "sweeper", "distribution": "sweeper", "version": "1.0"} in answer.json["plugins"]


def test_missing_dashboard_names_other_commands(run, install):
    """If no plugin provides a dashboard, the error names the commands that show jobs."""
    install("sweeper", SWEEPER)

    ran = run("dashboard shop:fire --port 80")

    assert ran.code == 2
    assert ran.error == (
        "firelock: No installed plugin offers a dashboard.\n"
        "  Install a dashboard, or use firelock jobs list and firelock doctor.\n"
    )


# ---- commands in messages --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "app", "expected"),
    [
        ("Start one: firelock server app:fire", None, "Start one: mine server app:fire"),
        ("Start one: firelock server app:fire", "shop.jobs:fire", "Start one: mine server shop.jobs:fire"),
        ("Start one: firelock server app:fire --queues mail", "", "Start one: mine server --queues mail"),
        ("Run firelock migrate.", "", "Run mine migrate."),
        ("Run firelock --help.", "", "Run mine --help."),
        ("firelock limits set api --burst 9", "", "mine limits set api --burst 9"),
        ("Run python manage.py firelock migrate.", "", "Run python manage.py firelock migrate."),
        ("firelock has no command 'job'.", "", "firelock has no command 'job'."),
        ("/srv/firelock server", "", "/srv/firelock server"),
        ("the firelock servers of app:fire", "x:y", "the mine servers of x:y"),
    ],
)
def test_suggested_commands_use_the_called_program(text, app, expected):
    """`firelock` and `app:fire` are replaced by the program and the app. Other text does not change."""
    with called_as("mine") as called:
        called.find_app = lambda: app

        assert expected == as_called(text)


def test_suggested_commands_of_the_doctor_contain_the_app(tmp_path, monkeypatch, capsys):
    """The command in the message can therefore be copied and run."""
    (tmp_path / "shop_called.py").write_text(
        "from firelock import Firelock\nfire = Firelock('sqlite:///shop.db')\n"
        "send = fire.task(name='send')(lambda: None)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Firelock("sqlite:///shop.db") as fire:
        fire.task(name="send")(lambda: None).enqueue()

    main(["doctor", "--app", "shop_called:fire"])

    assert "Start one: firelock server shop_called:fire\n" in capsys.readouterr().out
