# SPDX-License-Identifier: Apache-2.0
"""Starting a worker, waiting for its word, and ending it, without ever hitting another process.

A worker is started with posix_spawn in a session of its own, so that Ctrl-C at the terminal reaches
the command alone. Its environment is a short list, its arguments are fixed, its input is a pipe
with one document: a secret is in none of the places that others can read. Once it runs it is held
by a pidfd; a process number is only believed together with the start time that belongs to it.

It does not know what a worker does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

import fusefs
import pyscsi_init
from fusefs.errors import WorkerFailed
from fusefs.process.messages import (
    MAX_LINE_BYTES,
    BadMessage,
    StartDocument,
    decode_error,
    decode_line,
)

READY_FD = 3
WORKER_MODULE = "fusefs.process.worker"
READY_GRACE_S = 5.0
"""The worker keeps its own deadline and undoes what it did; this much later it counts as hung."""
UNDO_SECONDS = 15.0
"""How long a worker that was told to give up may take to undo what it did."""

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")

ProgressCallback = Callable[[str], None]


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


def is_alive(worker: WorkerIdentity) -> bool:
    """Whether that very process, or a thread of it, is still there."""
    descriptor = open_pidfd(worker)
    if descriptor is None:
        return False
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        has_ended = bool(poll.poll(0))
    finally:
        os.close(descriptor)
    if has_ended:
        reap(worker.pid)
    return not has_ended


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


async def wait_for_end(worker: WorkerIdentity, timeout_s: float) -> bool:
    """Wait until the process is dead; False when it is not within the time."""
    descriptor = open_pidfd(worker)
    if descriptor is None:
        reap(worker.pid)
        return True
    try:
        with anyio.move_on_after(timeout_s) as scope:
            await anyio.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    reap(worker.pid)
    return not scope.cancelled_caught


async def signal_and_wait(worker: WorkerIdentity, number: int, timeout_s: float) -> bool:
    """Send a signal to that very process and wait for its end; True when it is dead."""
    descriptor = open_pidfd(worker)
    if descriptor is not None:
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
    return await wait_for_end(worker, timeout_s)


def _environment() -> dict[str, str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON
        or (name.startswith("PYSCSI_INIT_") and "SECRET" not in name and "PASSWORD" not in name)
    }
    roots = [str(Path(str(module.__path__[0])).parent) for module in (fusefs, pyscsi_init)]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(roots))
    return environment


def _spawn(document: bytes, log: Path, arguments: tuple[str, ...]) -> tuple[WorkerIdentity, int]:
    """Start the process, hand it the document, return it and the end of its ready pipe."""
    with contextlib.ExitStack() as ours:

        def pipe() -> tuple[int, int]:
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            ours.callback(os.close, read_end)
            ours.callback(os.close, write_end)
            return read_end, write_end

        input_read, input_write = pipe()
        ready_read, ready_write = pipe()
        log_fd = os.open(
            log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        ours.callback(os.close, log_fd)
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", *arguments],
            _environment(),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, input_read, 0),
                (os.POSIX_SPAWN_DUP2, log_fd, 1),
                (os.POSIX_SPAWN_DUP2, log_fd, 2),
                (os.POSIX_SPAWN_DUP2, ready_write, READY_FD),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
        )
        started = start_time_of(pid)
        # A pipe takes this much without a reader (MAX_LINE_BYTES), so this does not block.
        with contextlib.suppress(BrokenPipeError):
            os.write(input_write, document)
        # The descriptor below is the caller's; the one in the stack is closed with the rest.
        return WorkerIdentity(pid, started if started is not None else -1), os.dup(ready_read)


class StartedWorker:
    """A worker that was started and has not said yet how it went."""

    def __init__(self, name: str, identity: WorkerIdentity, ready_fd: int, log: Path) -> None:
        self.identity = identity
        self._name = name
        self._log = log
        self._ready_fd = ready_fd
        self._buffer = bytearray()
        os.set_blocking(ready_fd, False)

    async def wait_ready(
        self, deadline_s: float, progress: ProgressCallback | None = None
    ) -> dict[str, Any]:
        """The facts of the volume, once the worker serves it; ``progress`` gets each step before.

        Raises:
            VolumeError, IscsiError: what the worker ended with, as the class that it raised there.
            WorkerFailed: it died, or was not done in time; it is dead then.

        Cancellation: the worker is told to give up, undoes what it did, and is dead on return.
        """
        try:
            with anyio.fail_after(deadline_s + READY_GRACE_S):
                document = await self._last_document(progress)
        except TimeoutError:
            await self.give_up()
            raise WorkerFailed(
                self._name, f"it was not ready within {deadline_s:g} s", pid=self.identity.pid
            ) from None
        except BadMessage as error:
            await self.give_up()
            raise WorkerFailed(self._name, str(error), pid=self.identity.pid) from error
        except BaseException:
            await self.give_up()
            raise
        finally:
            self.close()
        if document["ok"] is not True:
            await self.give_up()
            raise decode_error(document.get("error"), self._name)
        return dict(document.get("facts") or {})

    def close(self) -> None:
        """Close the ready pipe; more than once does nothing."""
        if self._ready_fd >= 0:
            os.close(self._ready_fd)
            self._ready_fd = -1

    async def _last_document(self, progress: ProgressCallback | None) -> dict[str, Any]:
        while "ok" not in (document := await self._next_document()):
            if progress is not None:
                progress(str(document.get("progress")))
        return document

    async def _next_document(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                data = os.read(self._ready_fd, 65536)
            except BlockingIOError:
                await anyio.wait_readable(self._ready_fd)
                continue
            if not data:
                raise BadMessage(f"it ended before it was ready{self._last_log_line()}")
            self._buffer += data
            if len(self._buffer) > MAX_LINE_BYTES:
                raise BadMessage("its answer has no end")
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return decode_line(line)

    def _last_log_line(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f": {lines[-1]}" if lines else ""

    async def give_up(self) -> None:
        """End the worker: politely, so that it undoes what it did, then not."""
        with anyio.CancelScope(shield=True):
            if not await signal_and_wait(self.identity, signal.SIGTERM, UNDO_SECONDS):
                await signal_and_wait(self.identity, signal.SIGKILL, UNDO_SECONDS)


def start_worker(
    document: StartDocument, log: Path, *, arguments: tuple[str, ...] = (WORKER_MODULE,)
) -> StartedWorker:
    """Start a worker process; short, and safe on the event loop's thread.

    Raises:
        WorkerFailed: it could not be started.
    """
    name = document.spec.name
    try:
        identity, ready_fd = _spawn(document.encode(), log, arguments)
    except (OSError, ValueError) as error:
        raise WorkerFailed(name, f"it could not be started: {error}") from error
    return StartedWorker(name, identity, ready_fd, log)
