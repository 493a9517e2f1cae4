"""Programs as users write them: a server inside a script, whose jobs run in their own processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from firelock import Firelock
from firelock.storage import ClaimRequest, NewSession
from firelock.testing import eventually
from tests.processes import is_there
from tests.repository.docs.pages import ROOT, python_blocks

DEADLINE = 90
SETTINGS = {"FIRELOCK_POLL": "0.2", "FIRELOCK_SWEEP": "0.2"}

# Every script of these tests counts its runs with these lines, and exits if it starts itself repeatedly.
COUNT = """
import sys
with open("runs", "a") as runs:
    runs.write("x")
if len(open("runs").read()) > 3:
    sys.exit("this script runs again and again")
"""
APP = """
import os
from firelock import Firelock, Retry

fire = Firelock("sqlite:///jobs.db")

@fire.task(executor="process", retry=Retry.never())
def apart() -> int:
    return os.getpid()

@fire.task(retry=Retry.never())
def in_server() -> int:
    return os.getpid()
"""
TASK_OF_THE_SCRIPT = """
from firelock import Retry
@fire.task(executor="process", retry=Retry.never())
def mine() -> str:
    return __name__
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with an app in its own module, `shop`."""
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


@pytest.fixture
def run(folder):
    """Return a function that writes this text to a script in the folder, runs it, and returns the output."""

    def run(text, *command, name="script.py"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return subprocess.run(
            [sys.executable, *(command or (name,))],
            cwd=folder, env={**os.environ, **SETTINGS}, capture_output=True, text=True, timeout=DEADLINE,
            check=False,
        )  # fmt: skip

    return run


def assert_prints(ended, text):
    """Assert that the script has ended with exit code 0 and printed this text."""
    assert (text, 0) == (ended.stdout, ended.returncode), ended.stderr


def runs(folder):
    """Return how often the script's top level has run."""
    return len((folder / "runs").read_text())


def stored(folder):
    """Return the jobs in the folder's storage."""
    with Firelock(f"sqlite:///{folder / 'jobs.db'}") as app:
        return app.jobs.find(limit=100).jobs


def suspect(folder, name):
    """Enqueue a job of the task whose process has died twice; return its id."""
    with Firelock(f"sqlite:///{folder / 'jobs.db'}") as app:
        job = app.task(name=name)(lambda: None).enqueue()
        for session in ("first", "second"):
            now = app.storage.clock()
            app.storage.begin_session(NewSession(session, "lost", "lost:1", "lost", 1, now, 30.0, 1, "*"))
            app.storage.claim(ClaimRequest(None, 1, session, now))
            app.storage.end_session(session, [job.id], reason="killed")
        return job.id


# ---- the app in a module ---------------------------------------------------------------------------------


def test_job_process_imports_the_app_module_and_not_the_script(folder, run):
    """If a script starts its server at the top level, it runs only once, even if its jobs need processes."""
    ended = run(
        COUNT + "import os\nfrom shop import fire, apart\njob = apart.enqueue()\n"
        "with fire.server(workers=1):\n    print(job.result(timeout=60) != os.getpid())\n"
    )

    assert_prints(ended, "True\n")
    assert 1 == runs(folder)
    assert 1 == len(stored(folder))


def test_process_of_a_suspect_imports_the_app_module_and_not_the_script(folder, run):
    """For a job that runs alone after two crashes, the app is found in the same way."""
    job = suspect(folder, "shop.in_server")

    ended = run(
        COUNT + "import os\nfrom shop import fire\n"
        f"with fire.server(workers=1):\n    print(fire.jobs.get({job!r}).result(timeout=60) != os.getpid())\n"
    )

    assert_prints(ended, "True\n")
    assert 1 == runs(folder)


def test_job_process_imports_the_module_of_the_task(folder, run):
    """The process imports the module in which the task is registered."""
    (folder / "mail.py").write_text("from shop import fire\n" + TASK_OF_THE_SCRIPT)

    ended = run(
        "from mail import mine\nfrom shop import fire\n"
        "with fire.server(workers=1):\n    print(mine.enqueue().result(timeout=60))\n"
    )

    assert_prints(ended, "mail\n")


def test_job_process_has_the_import_path_of_the_server(folder, run):
    """For example, the process finds modules next to the script even if it was started in another folder."""
    (folder / "parts").mkdir()
    (folder / "parts" / "elsewhere.py").write_text(APP)

    ended = run(
        "import os\nfrom elsewhere import fire, apart\nwith fire.server(workers=1):\n"
        "    print(apart.enqueue().result(timeout=60) != os.getpid())\n",
        "parts/script.py", name="parts/script.py",
    )  # fmt: skip

    assert_prints(ended, "True\n")


def test_app_is_found_in_the_module_that_creates_it(folder, run):
    """Another process might be unable to import a module that only imports the app.

    For example, the module might start a server.
    """
    (folder / "web.py").write_text("from shop import fire\nserver = fire.server(workers=1).start()\n")

    ended = run(
        "import os, web, shop\nprint(shop.apart.enqueue().result(timeout=60) != os.getpid())\n"
        "web.server.stop()\n"
    )

    assert_prints(ended, "True\n")


# ---- processes of jobs -----------------------------------------------------------------------------------


def test_consecutive_jobs_share_one_process(run):
    """Any worker can use an idle process for its next job."""
    ended = run(
        "from shop import fire, apart\nwith fire.server(workers=6):\n"
        "    print(len({apart.enqueue().result(timeout=60) for _ in range(6)}))\n"
    )

    assert_prints(ended, "1\n")


OUTLIVING = """
import ctypes, os, subprocess, sys, time

@fire.task(executor="process")
def outlive() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # as elsewhere: the kernel does not kill it with its parent
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open("new pids", "w") as pids:
        pids.write(f"{os.getpid()} {started.pid}")
    os.rename("new pids", "pids")
    time.sleep(600)
"""
SERVING = """
import os, time
from shop import fire, outlive

if __name__ == "__main__":
    outlive.enqueue()
    with fire.server(workers=1):
        while not os.path.exists("pids"):
            time.sleep(0.01)
        if "fork" in sys.argv and os.fork() == 0:
            time.sleep(600)
        with open("killing", "w") as killing:
            killing.write("now")
        time.sleep(600)
"""


@pytest.mark.parametrize("word", ["", "fork"])
def test_job_process_ends_with_its_server(folder, word):
    """All processes that the job has started are ended too.

    This is also true without the kernel's help, and if a fork of the server is still running.
    """
    (folder / "shop.py").write_text(APP + OUTLIVING)
    (folder / "script.py").write_text("import sys\n" + SERVING)
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "script.py", word], cwd=folder, env={**os.environ, **SETTINGS},
        start_new_session=True,
    )  # fmt: skip
    pids = []
    try:
        eventually(lambda: (folder / "killing").exists() or server.poll() is not None, within=DEADLINE)
        pids = [int(pid) for pid in (folder / "pids").read_text().split()]

        server.kill()

        server.wait()
        eventually(lambda: not any(is_there(pid) for pid in pids), within=30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


# ---- the app in the script -------------------------------------------------------------------------------


GUARDED = (
    COUNT + APP + "if __name__ == '__main__':\n    with fire.server(workers=1):\n"
    "        print(apart.enqueue().result(timeout=60) != os.getpid())\n"
)


@pytest.mark.parametrize("command", [["script.py"], ["-m", "script"]])
def test_script_with_a_main_guard_runs_its_own_tasks(folder, run, command):
    """The processes of its jobs import the file, which a log line reports.

    The code below the guard does not run in these processes.
    """
    ended = run(GUARDED, *command)

    assert_prints(ended, "True\n")
    assert 2 == runs(folder)
    assert 1 == len(stored(folder))


def test_program_in_a_package_runs_its_own_tasks(folder, run):
    """`python -m package.program` is imported by name.

    As a plain file, it could not import its neighbours.
    """
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").touch()
    (folder / "parts" / "words.py").write_text("greeting = 'hello'\n")
    text = "from parts.words import greeting\nfrom .words import greeting\n" + GUARDED

    ended = run(text, "-m", "parts.program", name="parts/program.py")

    assert_prints(ended, "True\n")


def test_script_without_a_main_guard_fails_its_first_job(folder, run):
    """The script's first job fails with an error that explains the fix.

    The top level of the script runs only one more time.
    """
    ended = run(
        COUNT + APP + "job = apart.enqueue()\nwith fire.server(workers=1):\n"
        "    try:\n        job.result(timeout=60)\n    except Exception as error:\n        print(error)\n"
    )

    assert 0 == ended.returncode, ended.stderr
    assert "shop.apart" not in ended.stdout
    assert "cannot be created at" in ended.stdout
    assert 'below `if __name__ == "__main__":`' in ended.stdout
    assert f"Each job process runs {folder / 'script.py'} again from the top" in ended.stderr
    assert (2, 1) == (runs(folder), len(stored(folder)))


def test_server_in_a_job_process_is_refused(folder, run):
    """The error is raised at the top level of an imported module and in the job itself."""
    text = APP + "@fire.task(executor='process', retry=Retry.never())\ndef serve():\n    fire.server()\n"

    ended = run(
        text + "if __name__ == '__main__':\n    with fire.server(workers=1):\n        try:\n"
        "            serve.enqueue().result(timeout=60)\n        except Exception as error:\n"
        "            print(error)\n"
    )
    at_the_top = run(
        COUNT + "from shop import fire\n" + TASK_OF_THE_SCRIPT + "if __name__ == '__main__':\n"
        "    job = mine.enqueue()\nwith fire.server(workers=1):\n    try:\n"
        "        job.result(timeout=60)\n    except Exception as error:\n        print(error)\n"
    )

    refusal = "fire.server() cannot start a server in a job process"
    assert (0, 0) == (ended.returncode, at_the_top.returncode), ended.stderr + at_the_top.stderr
    assert refusal in ended.stdout
    assert refusal in at_the_top.stdout
    assert 2 == runs(folder)


def test_task_of_a_script_runs_in_a_job_process(folder, run):
    """The script is imported only for its own tasks, not for other jobs. A log line reports the import."""
    ended = run(
        COUNT + "import os\nfrom shop import fire, apart\n" + TASK_OF_THE_SCRIPT
        + "if __name__ == '__main__':\n    with fire.server(workers=1):\n"
        "        print(apart.enqueue().result(timeout=60) != os.getpid(), len(open('runs').read()))\n"
        "        print(mine.enqueue().result(timeout=60), len(open('runs').read()))\n"
    )  # fmt: skip

    assert_prints(ended, "True 1\nscript 2\n")


# ---- `firelock` and its files ----------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["server", "script.py:fire"], ["jobs", "list", "--app", "script.py:fire"]])
def test_enqueue_while_a_command_imports_the_app_is_refused(folder, run, words):
    """Otherwise, every process of the server and every command would create the job again."""
    ended = run(APP + "apart.enqueue()\n", "-m", "firelock", *words)

    assert ("", 2) == (ended.stdout, ended.returncode)
    assert f"A job of script.apart cannot be created at {folder / 'script.py'}:" in ended.stderr
    assert "while the application is imported, because every process that imports it" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [] == stored(folder)


@pytest.mark.parametrize("words", [["server", "script.py:fire"], ["jobs", "list", "--app", "script.py:fire"]])
def test_server_while_a_command_imports_the_app_is_refused(folder, run, words):
    """The command does not need a second server, and must not run jobs while it lists them."""
    ended = run(APP + "with fire.server(workers=1):\n    print('served')\n", "-m", "firelock", *words)

    assert ("", 2) == (ended.stdout, ended.returncode)
    assert "fire.server() cannot start a server while the app is imported" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("blocks", "tasks"), [(1, "1 task"), (2, "3 tasks")])
def test_readme_examples_can_be_saved_as_one_file(folder, run, blocks, tasks):
    """The first example in the README works alone and together with the second one.

    Running the program creates its jobs, and a server that imports it does not create any.
    """
    examples = python_blocks((ROOT / "README.md").read_text("utf-8"))[:blocks]
    ended = run("\n".join(example.code for example in examples), "app.py", name="app.py")
    made = stored(folder)

    server = subprocess.Popen(
        [sys.executable, "-m", "firelock", "server", "app:fire"], cwd=folder,
        env={**os.environ, **SETTINGS}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = server.stdout.readline()
        server.terminate()
        server.communicate(timeout=DEADLINE)
    finally:
        server.kill()

    assert "report of 2026-11-24" == ended.stdout.splitlines()[0], ended.stderr
    assert line.endswith(f", {tasks}\n")
    assert ({job.id for job in made}, 0) == ({job.id for job in stored(folder)}, server.returncode)
