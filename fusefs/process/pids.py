# SPDX-License-Identifier: Apache-2.0
"""Processes told apart: a number, the start time that belongs to it, and the pidfd that holds it.

A number alone is used again. Only a pidfd says for certain that a process has ended, all of its
threads included; so only what a pidfd reported is taken for dead.

INVARIANT: nothing but the standard library, because the holder imports this.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """A process, told apart from a later one with the same number by its start time."""

    pid: int
    start_time: int


def start_time_of(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when it is gone.

    Its state is not asked: a main thread that has ended looks like a zombie while other threads
    still run. Only a pidfd tells when all of a process has ended.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold anything; the fields after it are plain.
    return int(text.rpartition(")")[2].split()[19])


def reap(pid: int) -> None:
    """Collect the exit status, should the process be our child and dead."""
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)


def has_ended(pidfd: int) -> bool:
    """Whether the process behind a pidfd is dead."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def open_pidfd(worker: WorkerIdentity) -> int | None:
    """A pidfd of that very process, or None when it is gone."""
    try:
        descriptor = os.pidfd_open(worker.pid)
    except ProcessLookupError:
        return None
    if start_time_of(worker.pid) != worker.start_time:
        os.close(descriptor)
        return None
    return descriptor


def is_alive(worker: WorkerIdentity) -> bool:
    """Whether that very process, or a thread of it, is still there."""
    descriptor = open_pidfd(worker)
    if descriptor is None:
        return False
    try:
        ended = has_ended(descriptor)
    finally:
        os.close(descriptor)
    if ended:
        reap(worker.pid)
    return not ended


def end_of(status: int) -> str:
    """How a process ended, in words, from what waitpid(2) says."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"ended with exit status {os.waitstatus_to_exitcode(status)}"
