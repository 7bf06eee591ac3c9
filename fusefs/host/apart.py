# SPDX-License-Identifier: Apache-2.0
"""A call in a process of its own, for a process that serves the file which the call asks.

A thread would do until the process is killed: a thread that waits in the kernel for a FUSE answer
of its own process cannot be ended by SIGKILL once the request was read, and keeps all descriptors
of the process open, /dev/fuse among them, so that nobody can take over. A child that has closed
them harms nobody: it waits for whoever answers. It is forked and runs no other program, because
loading one opens files, and these may lie on the file system that waits for us.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import NoReturn

from fusefs.errors import CallFailed, HostError, Timeout
from fusefs.host.blocking import bounded

_UNKNOWN = 255
"""The exit status for what is no errno."""


def apart(call: str, path: str, timeout_s: float, function: Callable[[], object]) -> None:
    """Run ``function`` in a child process, for what it does to the kernel's state.

    It has no descriptor of ours, and must not count on locks that other threads of ours may hold.

    Raises:
        CallFailed: it ended with an OSError; ``call`` and ``path`` are what that is told of.
        HostError: it ended in another way.
        Timeout: the child was told to end, and is reaped whenever it does.
    """
    pid = os.fork()
    if not pid:
        _child(function)
    pidfd = os.pidfd_open(pid)
    try:
        status = bounded(f"{call} {path}", timeout_s, lambda: os.waitpid(pid, 0)[1])
    except Timeout:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        raise
    finally:
        os.close(pidfd)
    number = os.waitstatus_to_exitcode(status)
    if 0 < number < _UNKNOWN:
        raise CallFailed(call, path, number)
    if number:
        raise HostError(f"{call} {path}: the child process for it ended with {number}")


def _child(function: Callable[[], object]) -> NoReturn:
    status = _UNKNOWN
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
        function()
        status = 0
    except OSError as fault:
        status = fault.errno if fault.errno and fault.errno < _UNKNOWN else _UNKNOWN
    finally:
        os._exit(status)  # whatever it was: nothing of our parent's end is ours to do
