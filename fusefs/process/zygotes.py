# SPDX-License-Identifier: Apache-2.0
"""The holder's side of its zygote: starting one, asking it for a worker, replacing it.

A worker must never run unknown to the holder, or a successor would be started beside it. So a
forked process first waits for its start document, which the holder writes only when it has the
pidfd; when the zygote dies in between, the pipe ends without a document and so does the process.

INVARIANT: nothing but the standard library, because the holder imports this.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fusefs.process.loop import Loop
from fusefs.process.packets import BadPacket, Outbox, Packet, receive
from fusefs.process.pids import WorkerIdentity, end_of
from fusefs.process.restarts import Restarts

log = logging.getLogger("fusefs.holder")

CONTROL_FD = 3
MAX_TRIES = 3
END_SECONDS = 2.0

LONGEST_DELAY_S = 0.5
"""Until a zygote that had come up and died is there again: about what it takes to come up."""


@dataclass(slots=True)
class ForkRequest:
    """A worker that is wanted. ``forked`` or ``failed`` is called once."""

    values: Mapping[str, Any]
    document: bytes = field(repr=False)
    descriptors: Mapping[str, int]
    """By name; they stay the caller's and must be open until the answer."""
    forked: Callable[[WorkerIdentity, int], None]
    """The process and a pidfd of it, which is the callee's."""
    failed: Callable[[str], None]
    is_wanted: Callable[[], bool]
    """Asked before anything is handed out: the volume, and its descriptors, may be gone by then."""
    tries: int = 0
    write_end: int = -1

    def close(self) -> None:
        """Let a process that waits for the document end."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1


class Zygote:
    """One zygote process."""

    def __init__(self, connection: socket.socket, pid: int, pidfd: int) -> None:
        self.connection = connection
        self.pid = pid
        self.pidfd = pidfd
        self.outbox = Outbox(connection)
        self.pending: dict[int, ForkRequest] = {}
        self.ready_at: float | None = None
        self.version = ""
        self.told: Callable[[str], None] | None = None
        """Who waits for it to be ready: called with the error, or with nothing."""

    def close(self) -> None:
        """Close our ends."""
        self.outbox.close()
        self.connection.close()
        os.close(self.pidfd)


class Zygotes:
    """The zygote of now, its predecessor while it ends, and what waits for one."""

    def __init__(
        self,
        loop: Loop,
        configuration: Mapping[str, Any],
        exited: Callable[[int, int], None],
    ) -> None:
        """``exited`` is told number and wait status of each worker that a zygote reaped."""
        self._loop = loop
        self.configuration = dict(configuration)
        self._exited = exited
        self.current: Zygote | None = None
        self._candidates: list[Zygote] = []
        self._waiting: list[ForkRequest] = []
        self._number = 0
        self._restarts = Restarts(longest_after_service_s=LONGEST_DELAY_S)
        self.last_death = ""
        self._begun = False
        self._ended = False

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer."""
        busy = bool(self._waiting or self._candidates)
        return busy or bool(self.current and self.current.pending)

    # -- workers ----------------------------------------------------------------------------------

    def fork(self, request: ForkRequest) -> None:
        """Ask for a worker, of the zygote that there is or the next one."""
        if not request.is_wanted():
            request.failed("nobody wants it any more")
            return
        zygote = self.current
        if zygote is None:
            self._waiting.append(request)
            self.prepare()
            return
        request.tries += 1
        self._number += 1
        read_end, request.write_end = os.pipe2(os.O_CLOEXEC)
        names = ["document", *request.descriptors]
        try:
            zygote.outbox.put(
                {"fork": self._number, "descriptors": names, **request.values},
                descriptors=[read_end, *request.descriptors.values()],
            )
        except OSError as error:
            request.close()
            request.failed(f"the zygote cannot be asked: {error}")
            return
        finally:
            os.close(read_end)
        zygote.pending[self._number] = request
        self._watch(zygote)

    def _answered(self, zygote: Zygote, packet: Packet) -> None:
        values = packet.values
        request = zygote.pending.pop(int(values["answer"]), None)
        pidfd = packet.take("pidfd")
        if request is None:
            if pidfd >= 0:
                os.close(pidfd)
            return
        if pidfd < 0:
            request.close()
            request.failed(str(values.get("error")))
            return
        if not request.is_wanted():
            # Without a document it ends by itself.
            request.close()
            os.close(pidfd)
            request.failed("nobody wants it any more")
            return
        with contextlib.suppress(OSError):
            # A pipe takes a whole document without a reader (MAX_LINE_BYTES).
            os.write(request.write_end, request.document)
        request.close()
        request.forked(WorkerIdentity(int(values["pid"]), int(values["start_time"])), pidfd)

    # -- zygotes ----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """See that there is one, unless the last has just died: then it comes after a while."""
        if not self._begun:
            self._begun = True
            self._start_if_none()

    def start(
        self, configuration: Mapping[str, Any] | None = None, told: Any = None
    ) -> Zygote | None:
        """Start one. With a ``configuration`` of its own it takes the place of the present one when
        it is ready, and ``told`` hears of that, or why not."""
        values = {**self.configuration, **(configuration or {})}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        environment = {**values["environment"], "PYTHONPATH": os.pathsep.join(values["roots"])}
        try:
            pid = os.posix_spawn(
                values["python"],
                [values["python"], "-P", "-m", values["zygote"]],
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), CONTROL_FD)],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
            )
        except OSError as error:
            ours.close()
            self._failed_to_start(f"it cannot be started: {error}", told)
            return None
        finally:
            theirs.close()
        zygote = Zygote(ours, pid, os.pidfd_open(pid))
        zygote.told = told
        zygote.outbox.put({"holder": values})
        if configuration is None:
            self._take(zygote)
        else:
            self._candidates.append(zygote)
        self._watch(zygote)
        return zygote

    def reconfigure(self, **changes: Any) -> None:
        """Change what the zygote starts the next holder with, should we die."""
        self.configuration.update(changes)
        if self.current is not None:
            with contextlib.suppress(OSError):
                self.current.outbox.put({"holder": self.configuration})
                self._watch(self.current)

    def adopt(self, connection: socket.socket, pid: int) -> None:
        """Go on with the zygote of a dead holder."""
        connection.setblocking(False)
        try:
            zygote = Zygote(connection, pid, os.pidfd_open(pid))
        except OSError:
            connection.close()
            return
        zygote.ready_at = self._loop.now()
        self._begun = True
        self._take(zygote)
        self._watch(zygote)

    def _take(self, zygote: Zygote) -> None:
        self.current = zygote
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self.fork(request)

    def _watch(self, zygote: Zygote) -> None:
        events = select.EPOLLIN | (select.EPOLLOUT if zygote.outbox else 0)
        self._loop.watch(zygote.connection.fileno(), lambda: self._heard(zygote), events)

    def _heard(self, zygote: Zygote) -> None:
        try:
            zygote.outbox.flush()
            packet = receive(zygote.connection)
        except BlockingIOError:
            self._watch(zygote)
            return
        except (OSError, BadPacket):
            packet = None
        if packet is None:
            self._gone(zygote)
            return
        try:
            if "answer" in packet.values:
                self._answered(zygote, packet)
            elif "exited" in packet.values:
                self._exited(int(packet.values["exited"]), int(packet.values["status"]))
            elif "ready" in packet.values:
                self._ready(zygote, str(packet.values["ready"]))
        finally:
            packet.close()
        if zygote.connection.fileno() >= 0:
            self._watch(zygote)

    def _ready(self, zygote: Zygote, version: str) -> None:
        zygote.ready_at, zygote.version = self._loop.now(), version
        log.info("zygote %d is ready", zygote.pid)
        if zygote in self._candidates:
            self._candidates.remove(zygote)
            old = self.current
            self._take(zygote)
            if old is not None:
                self._retire(old)
        if zygote.told is not None:
            zygote.told("")
            zygote.told = None

    def _gone(self, zygote: Zygote) -> None:
        """It closed its end: it is dead, or as good as that."""
        self._loop.unwatch(zygote.connection.fileno())
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(zygote.pidfd, signal.SIGKILL)
        never_ready = zygote.ready_at is None
        zygote.close()
        again = list(zygote.pending.values())
        for request in again:
            request.close()
        if zygote in self._candidates:
            self._candidates.remove(zygote)
        if zygote.told is not None:
            zygote.told(self.last_death or "it ended before it was ready")
        if zygote is self.current:
            self.current = None
            log.warning("zygote %d is gone", zygote.pid)
            delay = self._restarts.died(self._loop.now(), zygote.ready_at)
            if not self._ended:
                self._loop.call_in(delay, self._start_if_none)
        for request in again:
            if request.tries >= MAX_TRIES or never_ready:
                request.failed("the zygote that was to start it ended; see holder.log")
            else:
                self.fork(request)

    def _start_if_none(self) -> None:
        if self.current is None and not self._ended:
            self.start()

    def _failed_to_start(self, why: str, told: Any) -> None:
        log.error("zygote: %s", why)
        if told is not None:
            told(why)
            return
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            request.failed(f"zygote: {why}")
        self._loop.call_in(self._restarts.died(self._loop.now(), None), self._start_if_none)

    def reaped(self, pid: int, status: int) -> None:
        """A child of the holder's was reaped; remember the reason should it be a zygote."""
        if self.current is not None and pid == self.current.pid:
            self.last_death = end_of(status)

    # -- the end ----------------------------------------------------------------------------------

    def _retire(self, zygote: Zygote) -> None:
        """Tell one to end; its workers go on. What it has still to say is heard until it is gone:
        a socket that is closed with something unread in it would take our word with it."""
        with contextlib.suppress(OSError):
            zygote.outbox.put({"end": True})
        again, zygote.pending = list(zygote.pending.values()), {}
        for request in again:
            request.close()
            if self.current is not None:
                self.fork(request)

    def end(self) -> None:
        """End the zygote and wait for that, a short time."""
        self._ended = True
        zygote, self.current = self.current, None
        if zygote is None:
            return
        if zygote.ready_at is None:
            # It is importing and does not listen; it has no children yet.
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(zygote.pidfd, signal.SIGKILL)
        self._retire(zygote)
        poll = select.poll()
        poll.register(zygote.pidfd, select.POLLIN)
        if not poll.poll(END_SECONDS * 1000):
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(zygote.pidfd, signal.SIGKILL)
            poll.poll(END_SECONDS * 1000)
        self._loop.unwatch(zygote.connection.fileno())
        zygote.close()
