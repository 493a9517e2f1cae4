"""A storage that lists its calls, and meters for the cost of a call in SQLite and in Python."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections import defaultdict
from contextlib import contextmanager

import attrs

from firelock.testing import FaultyStorage


@contextmanager
def arranging():
    """Raise a `RuntimeError` if an assertion of the block fails.

    A test of an open fault expects an `AssertionError`, so its preparations must not raise one.
    """
    try:
        yield
    except AssertionError as error:
        raise RuntimeError(f"This could not be arranged: {error}") from error


@attrs.frozen
class Call:
    """A call of a verb."""

    verb: str
    args: tuple[object, ...]
    thread: int  # the identifier of the calling thread
    answer: object = None


class WatchedStorage(FaultyStorage):
    """Another storage that lists each verb's calls, and runs functions of the test before them."""

    def __init__(self, inside):
        super().__init__(inside)
        self._watching = threading.Lock()
        self._begun = defaultdict(list)
        self._answered = defaultdict(list)
        self._before = {}

    def before(self, verb, function):
        """Run a function before each call of the verb, with the arguments of the call and in its thread."""
        self._before[verb] = function

    def begun(self, *verbs):
        """Return the calls of these verbs that have begun, verb by verb."""
        with self._watching:
            return [call for verb in verbs for call in self._begun[verb]]

    def answered(self, *verbs):
        """Return the calls of these verbs that have been answered, verb by verb."""
        with self._watching:
            return [call for verb in verbs for call in self._answered[verb]]

    def transitions(self):
        """Return every transition that the storage was sent."""
        return [one for call in self.begun("exchange", "apply") for one in call.args[0]]

    def has_been_sent(self, job):
        """Whether the storage was sent a transition of the job."""
        return any(one.job_id == job.id for one in self.transitions())

    def pass_on(self, verb, *args, **kwargs):
        """Pass the call on, after noting it."""
        call = Call(verb, args, threading.get_ident())
        with self._watching:
            self._begun[verb].append(call)
        if verb in self._before:
            self._before[verb](*args)
        answer = super().pass_on(verb, *args, **kwargs)
        with self._watching:
            self._answered[verb].append(attrs.evolve(call, answer=answer))
        return answer


# ---- SQLite ----------------------------------------------------------------------------------------------


class SqliteMeter:
    """Counts the instructions of SQLite's virtual machine, in every connection that is opened meanwhile.

    The number of rows that a statement visits decides how many it runs, the speed of the machine does not.
    """

    _EVERY = 20

    def __init__(self, monkeypatch):
        self._instructions = 0
        connect = sqlite3.connect

        def metered(*args, **kwargs):
            connection = connect(*args, **kwargs)
            connection.set_progress_handler(self._count, self._EVERY)
            return connection

        monkeypatch.setattr(sqlite3, "connect", metered)

    def _count(self):
        self._instructions += self._EVERY

    def instructions(self, work, times=10):
        """Return about how many instructions one call of the function runs, by the mean of several."""
        before = self._instructions
        for _ in range(times):
            work()
        return (self._instructions - before) / times


# ---- Python ----------------------------------------------------------------------------------------------


@contextmanager
def traced(trace):
    """Trace this thread by a function within the block."""
    former = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(former)


def lines_run(work):
    """Return how many lines of Python a call of the function runs in this thread."""
    lines = 0

    def count(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return count

    with traced(count):
        work()
    return lines
