"""Run Django's own tests of its tasks against Firelock's backend: `python tasks_own.py FOLDER`.

FOLDER contains a copy of `tests/tasks` of Django's sources, and is the working folder of the programs. The
tests use two variants of Firelock's backend instead of Django's two backends. One stores jobs without running
them, like the dummy backend. The other runs each job immediately on a manual server. The last line of the
output is JSON: the number of passed tests, and the names of the other tests.
"""

from __future__ import annotations

import json
import re
import sys
import types
import unittest
from pathlib import Path

import django
from django.conf import settings

NAMESPACE = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
OF_THE_BACKPORT = {
    r"\bInvalidTask\b": "InvalidTaskError",
    r"\bInvalidTaskBackend\b": "InvalidTaskBackendError",
    r"\bdjango\.tasks\b(?!\.(py|backends\.(dummy|immediate)))": "django_tasks",
    r"from django_tasks import Task, ": "from django_tasks.base import Task\nfrom django_tasks import ",
    "support async Tasks": "support async tasks",
}
OURS = {
    "django.tasks.backends.dummy.DummyBackend": "firelock_backends.Keeping",
    "django.tasks.backends.immediate.ImmediateBackend": "firelock_backends.Running",
    "from django.tasks.backends.dummy import DummyBackend": (
        "from firelock_backends import Keeping as DummyBackend"
    ),
    "from django.tasks.backends.immediate import ImmediateBackend": (
        "from firelock_backends import Running as ImmediateBackend"
    ),
}

# Tests that check details of Django's own backends instead of the contract of every backend.
_MEMORY = "it changes a result in the dummy's own list, and expects the change to be read back"
_MISSES = "the immediate backend lacks this feature; ours has it"
_NO_PICKLE = "tasks can be pickled from Django 6.1 on"
LEFT_OUT = {
    "test_refresh_result (tasks.test_dummy_backend": _MEMORY,
    "test_refresh_result_async (tasks.test_dummy_backend": _MEMORY,
    "test_cannot_get_result": _MISSES,
    "test_cannot_refresh_result": _MISSES,
    "test_cannot_pass_run_after": _MISSES,
    "test_throws_keyboard_interrupt": "it runs in its caller, whose Ctrl-C is no job's error",
    **({} if django.VERSION >= (6, 1) else {
        "test_pickle_task": _NO_PICKLE,
        "test_unpickle": _NO_PICKLE,
        "test_run_after_in_decorator": "it is refused from Django 6.1 on",
    }),
}  # fmt: skip
MODULES = ("test_tasks", "test_dummy_backend", "test_immediate_backend")


def backends():
    """Return a module that contains the backends for the tests."""
    from firelock import Firelock
    from firelock.integrations.django import TaskBackend
    from firelock.testing import Tester

    fire = Firelock("memory://")
    testers = [Tester(fire).__enter__()]

    class OfTheTests(TaskBackend):
        def __init__(self, alias, params):
            given = params.get("OPTIONS", {})
            super().__init__(alias, {**params, "OPTIONS": {"app": fire, **given}})
            self.options = given

    class Keeping(OfTheTests):
        def clear(self):
            testers.pop().__exit__()
            testers.append(Tester(fire).__enter__())

        @property
        def results(self):
            return [self.get_result(entry.job.id) for entry in testers[0].enqueued()]

    class Running(OfTheTests):
        def enqueue(self, task, args, kwargs):
            result = super().enqueue(task, args, kwargs)
            testers[0].drain()
            result.refresh()
            return result

        async def aenqueue(self, task, args, kwargs):
            result = await super().aenqueue(task, args, kwargs)
            await testers[0].adrain()
            await result.arefresh()
            return result

    module = types.ModuleType("firelock_backends")
    for kind in (Keeping, Running):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    return module


def translate(folder):
    """Make the tests use Firelock's backends, and on Django 5.2 the backport of `django.tasks`."""
    for path in folder.glob("tasks/*.py"):
        text = path.read_text(encoding="utf-8")
        for theirs, ours in OURS.items():
            text = text.replace(theirs, ours)
        for pattern, word in OF_THE_BACKPORT.items() if NAMESPACE == "django_tasks" else ():
            text = re.sub(pattern, word, text)
        path.write_text(text, encoding="utf-8")


def main(folder):
    """Run all tests that apply."""
    translate(folder)
    sys.path.insert(0, str(folder))
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["django_tasks"] if NAMESPACE == "django_tasks" else [],
        USE_TZ=True,
        TASKS={"default": {"BACKEND": "firelock_backends.Running", "QUEUES": []}},
    )
    django.setup()
    sys.modules["firelock_backends"] = backends()
    loader = unittest.TestLoader()
    suite, left_out = unittest.TestSuite(), {}
    for module in MODULES:
        for case in loader.loadTestsFromName(f"tasks.{module}"):
            for test in case:
                reason = next((why for name, why in LEFT_OUT.items() if str(test).startswith(name)), None)
                if reason is None:
                    suite.addTest(test)
                else:
                    left_out[test.id()] = reason
    outcome = unittest.TextTestRunner(verbosity=2).run(suite)
    broken = [test.id() for test, _ in (*outcome.failures, *outcome.errors)]
    summary = {
        "django": django.get_version(),
        "run": outcome.testsRun,
        "broken": broken,
        "left_out": left_out,
    }
    print(json.dumps(summary))  # noqa: T201 - the output that the test parses


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
