"""Processes that end with their parent, however the parent ends."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""From Linux's <sys/prctl.h>."""


def end_with_parent(number: signal.Signals) -> None:
    """Send this process, also after exec, the signal `number` when its parent ends; on Linux only.

    To the kernel, the parent is the thread that started this process. Where it has already ended, the signal is sent at
    once. Raises OSError where prctl fails.
    """
    if sys.platform != "linux":
        return
    parent_pid = os.getppid()
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), number)
