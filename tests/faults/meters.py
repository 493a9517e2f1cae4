"""A storage that records its calls, and meters for the cost of a call in SQLite and in Python."""

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
    """Raise a `RuntimeError` if an assertion in the block fails.

    A test of an open fault expects an `AssertionError`, so its preparations must not raise one.
    """
    try:
        yield
    except AssertionError as error:
        raise RuntimeError(f"This could not be arranged: {error}") from error


@attrs.frozen
class Call:
    """A call of a storage's method."""

    verb: str
    args: tuple[object, ...]
    thread: int  # the identifier of the calling thread
    answer: object = None


class WatchedStorage(FaultyStorage):
    """A storage that records each method's calls, and runs functions of the test before them."""

    def __init__(self, inside):
        super().__init__(inside)
        self._watching = threading.Lock()
        self._begun = defaultdict(list)
        self._answered = defaultdict(list)
        self._before = {}

    def before(self, verb, function):
        """Run a function before each call of the method, with its arguments and in its thread."""
        self._before[verb] = function

    def begun(self, *verbs):
        """Return the started calls of these methods, method by method."""
        with self._watching:
            return [call for verb in verbs for call in self._begun[verb]]

    def answered(self, *verbs):
        """Return the completed calls of these methods, method by method."""
        with self._watching:
            return [call for verb in verbs for call in self._answered[verb]]

    def transitions(self):
        """Return every transition that was sent to the storage."""
        return [one for call in self.begun("exchange", "apply") for one in call.args[0]]

    def has_been_sent(self, job):
        """Return whether a transition of the job was sent to the storage."""
        return any(one.job_id == job.id for one in self.transitions())

    def pass_on(self, verb, *args, **kwargs):
        """Record the call and pass it on."""
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
    """A counter of the instructions of SQLite's virtual machine, in every connection opened meanwhile.

    The number of instructions depends on the number of rows that a statement visits, and not on the speed of
    the machine.
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
        """Return about how many instructions one call of the function runs, as the mean of several calls."""
        before = self._instructions
        for _ in range(times):
            work()
        return (self._instructions - before) / times


# ---- Python ----------------------------------------------------------------------------------------------


@contextmanager
def traced(trace):
    """Trace this thread with a function within the block."""
    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(previous)


def lines_run(work):
    """Return how many lines of Python one call of the function runs in this thread."""
    lines = 0

    def count(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return count

    with traced(count):
        work()
    return lines
