# SPDX-License-Identifier: Apache-2.0
"""The process that workers are forked from: ``python -m fusefs.process.zygote``.

It has imported all that a worker needs, so a worker is there in milliseconds and shares this memory
with all others. It has no thread, no event loop and no volume: a thread would not survive fork(2),
and a lock that it held would stay locked in each child. It keeps no descriptor that it hands on,
and it sees no secret: a document goes through it as the end of a pipe.

The holder starts it. When the holder dies, it starts the next one and goes on with that; when it
dies itself, no worker notices. What is imported here is the code of all workers forked from it:
another version is another zygote.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import importlib.util
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from fusefs.process.inherited import Inherited
from fusefs.process.launch import spawn_holder
from fusefs.process.packets import BadPacket, Packet, encode, receive, send_with_descriptors
from fusefs.process.pids import start_time_of

CONTROL_FD = 3
PRELOADED = ("uvloop", "anyio._backends._asyncio", "crc32c", "encodings.idna", "sniffio")
"""What a worker would import by itself, besides its own modules; each only where there is one."""
WORKER_NAME = "pyscsi-worker"
"""What a worker is called in lists of processes: its arguments are the zygote's."""
HOLES_BYTES = 64 << 10
"""Of each size of small objects. More saves little; this saves a quarter of a MiB per worker."""
EMPTY_BYTES = sys.getsizeof(b"")
SMALLEST_BYTES = 48
"""Below it there are no bytes; an object() has 16, a float 24."""
MAX_HOLDERS = 3
"""Holders that may die one after the other without having asked for anything."""


Serve = Callable[[Inherited], int]


class Zygote:
    """The loop of the zygote; :meth:`run` returns in the zygote, and never in a child."""

    def __init__(self, control: socket.socket, serve: Serve) -> None:
        self._control = control
        self._serve = serve
        self._holder: Mapping[str, Any] = {}
        self._holders_in_a_row = 0
        self._children: set[int] = set()
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        """Fork whatever is asked for, until told to end."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._send({"ready": _version()})
        while True:
            poll = select.poll()
            poll.register(self._control, select.POLLIN)
            poll.register(self._woken, select.POLLIN)
            for fd, _ in poll.poll():
                if fd == self._woken:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                elif not self._take():
                    return
            self._reap()

    def _take(self) -> bool:
        """One packet; False at the end."""
        try:
            packet = receive(self._control)
        except (OSError, BadPacket):
            packet = None
        if packet is None:
            return self._start_a_holder()
        with contextlib.closing(packet):
            self._holders_in_a_row = 0
            if "end" in packet.values:
                return False
            if "holder" in packet.values:
                self._holder = packet.values["holder"]
            elif "fork" in packet.values:
                self._fork(packet)
        return True

    def _send(self, values: Mapping[str, Any], *descriptors: int) -> None:
        with contextlib.suppress(OSError):  # the next read tells that nobody is there
            send_with_descriptors(self._control, encode(values), descriptors)

    # -- workers ----------------------------------------------------------------------------------

    def _fork(self, packet: Packet) -> None:
        number = packet.values["fork"]
        try:
            pid = os.fork()
        except OSError as error:
            self._send({"answer": number, "error": f"fork: {error.strerror}"})
            return
        if not pid:
            self._become_a_worker(packet)
        self._children.add(pid)
        pidfd = os.pidfd_open(pid)
        values = {"answer": number, "pid": pid, "start_time": start_time_of(pid) or -1}
        self._send({**values, "descriptors": ["pidfd"]}, pidfd)
        os.close(pidfd)

    def _become_a_worker(self, packet: Packet) -> None:
        """In the child: let go of what is the zygote's, and serve. Never returns."""
        status = 70
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._woken)
            os.close(self._wake)
            os.setsid()
            with contextlib.suppress(OSError):
                Path("/proc/self/comm").write_text(WORKER_NAME)
            names = ("document", "ready", "fuse", "slots", "pulse", "log")
            inherited = Inherited(
                name=str(packet.values["name"]),
                generation=int(packet.values["generation"]),
                **{name: packet.take(name) for name in names},
            )
            packet.close()
            os.dup2(inherited.log, 1)
            os.dup2(inherited.log, 2)
            status = self._serve(inherited)
        except BaseException as error:
            with contextlib.suppress(Exception):
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            # Not sys.exit: what the zygote has to undo is not ours to undo.
            os._exit(status)

    def _reap(self) -> None:
        for pid in list(self._children):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                self._children.discard(pid)
                continue
            if ended:
                self._children.discard(pid)
                self._send({"exited": pid, "status": status})

    # -- the holder -------------------------------------------------------------------------------

    def _start_a_holder(self) -> bool:
        """Ours is dead: start the next one, with us as its zygote."""
        self._holders_in_a_row += 1
        if not self._holder or self._holders_in_a_row > MAX_HOLDERS:
            return False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        configuration = {**self._holder, "adopt": os.getpid(), "take_over": False}
        try:
            spawn_holder(configuration, control=theirs.fileno())
        except (OSError, ValueError) as error:
            os.write(2, f"zygote: no holder can be started: {error}\n".encode())
            ours.close()
            return False
        finally:
            theirs.close()
        self._control.close()
        self._control = ours
        return True


def _version() -> str:
    try:
        return importlib.metadata.version("pyscsi-init")
    except importlib.metadata.PackageNotFoundError:
        return ""


def fill_the_holes() -> list[object]:
    """Objects for the room that imports have left between others, for the caller to keep.

    A child would put its own objects there, and each of them makes a shared page its own; so it
    finds no room, and puts them together in pages of its own.
    """
    filling: list[object] = []
    for size in range(16, 513, 16):
        count = HOLES_BYTES // size
        if size >= SMALLEST_BYTES:
            filling.append([bytes(size - EMPTY_BYTES) for _ in range(count)])
        else:
            filling.append([object() if size == 16 else float(i) for i in range(count)])
    return filling


def main(serve: Serve | None = None) -> NoReturn:
    """Run a zygote in this process; ``serve`` is what a worker does, and its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    control = socket.socket(fileno=CONTROL_FD)
    control.setblocking(True)
    os.set_inheritable(CONTROL_FD, False)
    os.umask(0o077)
    os.chdir("/")
    if serve is None:
        serve = importlib.import_module("fusefs.process.birth").main
    for module in PRELOADED:
        if importlib.util.find_spec(module.partition(".")[0]) is not None:
            importlib.import_module(module)
    "localhost".encode("idna")
    # What lives now lives as long as its children: a collection of theirs would only copy pages.
    gc.collect()
    filling = fill_the_holes()
    gc.freeze()
    Zygote(control, serve).run()
    del filling
    # There is nothing to undo, and who replaces or ends us waits for it.
    os._exit(0)


if __name__ == "__main__":
    main()
