# SPDX-License-Identifier: Apache-2.0
"""Processes of the tests: found by parent or by environment, waited for by pidfd, ended by pid.

A process is never looked for by its name alone: other test runs on the same machine have the same
names. Every process that a test starts inherits the variable SESSION_VARIABLE, and that is how a
forgotten one is found even after it was given another parent.
"""

from __future__ import annotations

import os
import select
import signal
import uuid
from pathlib import Path

SESSION_VARIABLE = "PYSCSI_INIT_TEST_SESSION"


def mark_session() -> str:
    """Put this test run's mark into the environment that children inherit, and return it."""
    mark = os.environ.get(SESSION_VARIABLE) or uuid.uuid4().hex
    # Several test processes that share one run must not hold each other's children for their own.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and not mark.endswith(worker):
        mark += worker
    os.environ[SESSION_VARIABLE] = mark
    return mark


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""  # the process ended, or is not ours to look at


def command_line(pid: int) -> str:
    """The arguments of a process; of a zombie its name in brackets; empty when it is gone."""
    arguments = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").strip()
    if arguments:
        return arguments.decode(errors="replace")
    name = _read(f"/proc/{pid}/comm").decode(errors="replace").strip()
    return f"[{name}]" if name else ""


def name_of(pid: int) -> str:
    """What a process calls itself; empty when it is gone."""
    return _read(f"/proc/{pid}/comm").decode(errors="replace").strip()


def children(pid: int | None = None) -> set[int]:
    """The direct children of a process (of this one by default), zombies included."""
    found: set[int] = set()
    base = f"/proc/{pid or os.getpid()}/task"
    try:
        threads = os.listdir(base)
    except OSError:
        return found
    for thread in threads:
        found.update(int(child) for child in _read(f"{base}/{thread}/children").split())
    return found


def marked_processes(mark: str) -> set[int]:
    """Every living process that inherited the mark, except this one."""
    needle = f"{SESSION_VARIABLE}={mark}".encode()
    return {
        int(entry)
        for entry in os.listdir("/proc")
        if entry.isdigit()
        and int(entry) != os.getpid()
        and needle in _read(f"/proc/{entry}/environ").split(b"\0")
    }


def is_alive(pid: int) -> bool:
    """True while the process runs; a zombie is dead."""
    status = _read(f"/proc/{pid}/stat")
    return bool(status) and status.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def wait_exit(pid: int, timeout: float = 10.0) -> bool:
    """Wait until the process has ended; False when it is still there after ``timeout`` seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def end(pid: int, *, how: signal.Signals = signal.SIGKILL, timeout: float = 10.0) -> None:
    """Send a signal to one process and wait for its end; one of our children is also reaped.

    The pidfd is opened before the signal is sent, so a reused pid is never hit in between.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, how)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise TimeoutError(f"process {pid} ({command_line(pid)}) did not end on {how.name}")
        if pid in children():
            os.waitid(os.P_PIDFD, descriptor, os.WEXITED)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def open_descriptors(pid: int | None = None) -> dict[int, str]:
    """Descriptor number -> what it refers to."""
    base = f"/proc/{pid or os.getpid()}/fd"
    found: dict[int, str] = {}
    for entry in os.listdir(base):
        try:
            found[int(entry)] = os.readlink(f"{base}/{entry}")
        except OSError:
            continue
    return found


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, marked as ours, with ``changes``; messages in English."""
    mark_session()
    return {**os.environ, "LC_ALL": "C.UTF-8", **changes}


def environ_of(pid: int | None) -> dict[str, str]:
    """What a process was started with."""
    with open(f"/proc/{pid}/environ", "rb") as stream:
        entries = stream.read().split(b"\0")
    return dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)
