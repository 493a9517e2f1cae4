"""The tasks whose jobs are stored and run by servers."""

from __future__ import annotations

from typing import Any

import attrs

from firelock import Firelock, Unique

DAY = 86_400.0  # seconds


@attrs.frozen
class Tasks:
    """The tasks of an application."""

    noop: Any
    tick: Any  # due at a given time; the start is stored with the job
    beat: Any  # recurring
    unique: Any  # with a unique key per number


def declare(fire: Firelock) -> Tasks:
    """Declare the tasks in an app."""

    def nothing() -> None: ...

    def numbered(number: int) -> None: ...

    return Tasks(
        noop=fire.task(name="noop")(nothing),
        tick=fire.task(name="tick", keep=DAY)(numbered),
        beat=fire.task(name="beat", keep=DAY)(numbered),
        unique=fire.task(name="unique", unique=Unique("{number}"))(numbered),
    )
