"""A process that ends with the one that started it, whichever way that ended."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""Of Linux's <sys/prctl.h>."""


def end_with_parent(number: signal.Signals) -> None:
    """Have this process, and what it becomes by exec, sent a signal when its parent ends; on Linux alone.

    The kernel means the parent's thread that started it. Where that has ended already, the signal comes at once.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
