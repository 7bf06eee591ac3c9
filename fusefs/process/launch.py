# SPDX-License-Identifier: Apache-2.0
"""Starting a holder, waiting for a worker's word, and ending one, without ever hitting another
process.

A holder is started with posix_spawn in a session of its own, so that Ctrl-C at the terminal reaches
the command alone. Its environment is a short list, its arguments are fixed, its input is a pipe
with its configuration: a secret is in none of the places that others can read. A worker is held by
a pidfd; a process number is only believed together with the start time that belongs to it.

It does not know what a worker does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio

import fusefs
import pyscsi_init
from fusefs.errors import WorkerFailed
from fusefs.process import places
from fusefs.process.messages import (
    MAX_LINE_BYTES,
    BadMessage,
    decode_error,
    decode_line,
)
from fusefs.process.pids import WorkerIdentity, open_pidfd, reap

CONTROL_FD = 3
HOLDER_MODULE = "fusefs.process.holder"
ZYGOTE_MODULE = "fusefs.process.zygote"
READY_GRACE_S = 5.0
"""The worker keeps its own deadline and undoes what it did; this much later it counts as hung."""
UNDO_SECONDS = 15.0
"""How long a worker that was told to give up may take to undo what it did."""

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")

ProgressCallback = Callable[[str], None]


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


def code_of_this_process() -> dict[str, Any]:
    """Interpreter, folders and environment: what makes another process run this very code."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON
        or (name.startswith("PYSCSI_INIT_") and "SECRET" not in name and "PASSWORD" not in name)
    }
    roots = [str(Path(str(module.__path__[0])).parent) for module in (fusefs, pyscsi_init)]
    return {
        "python": sys.executable,
        "roots": list(dict.fromkeys(roots)),
        "environment": environment,
    }


def spawn_holder(
    configuration: Mapping[str, Any],
    *,
    control: int = -1,
    prefix: Sequence[str] = (),
    before: Callable[[int], Sequence[str]] | None = None,
) -> None:
    """Start a holder and wait until it is on its own; blocks for as long as Python starts.

    ``control`` is the connection to a zygote that it goes on with. ``prefix`` is a command that
    starts another one. ``before`` gets the process number when nothing has been done yet, and says
    what of its business could not be done.

    Raises:
        OSError: it could not be started.
    """
    values = dict(configuration)
    with contextlib.ExitStack() as ours:
        input_read, input_write = os.pipe2(os.O_CLOEXEC)
        ours.callback(os.close, input_read)
        with contextlib.ExitStack() as writing:
            writing.callback(os.close, input_write)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            log = os.open(Path(values["run"]) / places.LOG_NAME, flags, 0o600)
            ours.callback(os.close, log)
            actions: list[Any] = [
                (os.POSIX_SPAWN_DUP2, input_read, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ]
            if control >= 0:
                actions.append((os.POSIX_SPAWN_DUP2, control, CONTROL_FD))
            arguments = [*prefix, values["python"], "-P", "-m", HOLDER_MODULE]
            pid = os.posix_spawnp(
                arguments[0],
                arguments,
                {**values["environment"], "PYTHONPATH": os.pathsep.join(values["roots"])},
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
            )
            if before is not None:
                values["notes"] = list(before(pid))
            data = json.dumps(values).encode()
            with contextlib.suppress(BrokenPipeError):
                while data:
                    data = data[os.write(input_write, data) :]
        # It goes on in a child of its own, which is nobody's to wait for.
        os.waitpid(pid, 0)


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
