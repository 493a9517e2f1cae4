"""A process that runs jobs must not outlive the one that keeps its session alive."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int) -> None:
    """On Linux the kernel kills this process when its parent dies; elsewhere the end of a pipe has to do.

    Args:
        parent: the process id this process was started by; if it is gone already, exit now.
    """
    if sys.platform == "linux":  # pragma: no branch - the branch is the platform's
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
