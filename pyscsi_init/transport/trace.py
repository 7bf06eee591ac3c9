# SPDX-License-Identifier: Apache-2.0
"""What the sockets of a session sent and received, written down as a capture for Wireshark.

A traced session has sockets that note what passes. A session without a trace has plain ones, so it
pays nothing. Each system call becomes a packet with the time of its return, so a trace also shows
what was read and sent in one go. Secrets are masked (redaction.py).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ..errors import ConfigurationError
from ..settings import Settings
from .pcapng import Conversation, packet_block
from .redaction import Redactor
from .tracefile import TraceFile, check_trace_file, close_trace_file, open_trace_file

log = logging.getLogger("pyscsi_init.trace")

T = TypeVar("T")

OPEN_PATIENCE_S = 5.0


class TracedSocket(socket.socket):
    """A connected socket, taken over from ``sock``, that notes what passes."""

    def __init__(self, sock: socket.socket, file: TraceFile, comment: str) -> None:
        local, remote = _address(sock.getsockname, 49152), _address(sock.getpeername, 3260)
        super().__init__(fileno=sock.detach())
        self.setblocking(False)
        self._file = file
        self._conversation = Conversation(local, remote)
        self._redactor = Redactor()
        self._comment = comment
        self._left_out = 0
        self._ended = False
        for outward, packet in self._conversation.opening():
            self._put(outward, packet)

    def note(self, text: str) -> None:
        """Let the next packet carry a remark, such as why the connection is given up."""
        self._comment = f"{self._comment}; {text}" if self._comment else text

    def _put(self, outward: bool, packet: bytes) -> None:
        comment = self._comment
        if self._left_out:
            comment += f" [{self._left_out} bytes before this are not recorded: the file was slow]"
        if self._file.put(
            packet_block(packet, time.time_ns(), outward=outward, comment=comment.strip())
        ):
            self._comment = ""
            self._left_out = 0
        else:
            self._left_out += len(packet)

    def _passed(self, outward: bool, buffers: Iterable[Any], count: int) -> None:
        pieces = []
        left = count
        for buffer in buffers:
            if left <= 0:
                break
            pieces.append(memoryview(buffer)[:left])
            left -= len(pieces[-1])
        payload = self._redactor.feed(outward, b"".join(pieces))
        for packet in self._conversation.data(outward, payload):
            self._put(outward, packet)

    def _is_ended_by(self, outward: bool, *, reset: bool) -> None:
        if not self._ended:
            self._ended = reset or outward
            self._put(outward, self._conversation.end(outward, reset=reset))

    # -- what the pump calls ---------------------------------------------------------------------

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As a socket does."""
        try:
            count = super().recv_into(buffer, nbytes, flags)
        except OSError as error:
            self._failed(error)
            raise
        self._received((buffer,), count)
        return count

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[Any], int, Any]:
        """As a socket does."""
        buffers = tuple(buffers)
        try:
            result = super().recvmsg_into(buffers, ancbufsize, flags)
        except OSError as error:
            self._failed(error)
            raise
        self._received(buffers, result[0])
        return result

    def sendmsg(self, buffers: Iterable[Any], *arguments: Any) -> int:
        """As a socket does."""
        buffers = tuple(buffers)
        try:
            count = super().sendmsg(buffers, *arguments)
        except OSError as error:
            self._failed(error)
            raise
        self._passed(True, buffers, count)
        return count

    def close(self) -> None:
        """As a socket does."""
        if self.fileno() >= 0:
            self._is_ended_by(True, reset=False)
        super().close()

    def _received(self, buffers: Iterable[Any], count: int) -> None:
        if count:
            self._passed(False, buffers, count)
        else:
            self._is_ended_by(False, reset=False)

    def _failed(self, error: OSError) -> None:
        if not isinstance(error, BlockingIOError | InterruptedError):
            self.note(error.strerror or str(error))
            self._is_ended_by(False, reset=True)


def _address(name_of: Callable[[], Any], port: int) -> tuple[str, int]:
    """Host and port; made up for a socket that is not TCP, which a connector may make, and for one
    that was reset already, which its reader will hear."""
    with contextlib.suppress(OSError):
        if isinstance(name := name_of(), tuple):
            return name[:2]
    return "127.0.0.1", port


class Trace:
    """The trace of one session, over all its connections."""

    def __init__(self, file: TraceFile, what: str) -> None:
        self._file = file
        self._what = what
        self._socket: TracedSocket | None = None

    def over(self, sock: socket.socket) -> socket.socket:
        """A socket to use instead of a new, connected one."""
        self._socket = TracedSocket(sock, self._file, self._what)
        return self._socket

    def ends(self, error: Exception | None) -> None:
        """The present connection is given up for this reason; None: in order."""
        if self._socket is not None and error is not None:
            self._socket.note(f"{type(error).__name__}: {error}")


@contextlib.asynccontextmanager
async def open_trace(settings: Settings, what: str) -> AsyncIterator[Trace | None]:
    """The trace that the settings ask for, for a session with ``what``; None where they ask for
    none. Everything is in the file when the block has ended.

    Raises:
        ConfigurationError: the file cannot be written, or is no trace.
    """
    if not settings.trace:
        yield None
        return
    file = await _in_time(open_trace_file, settings.trace, settings.trace_size)
    try:
        yield Trace(file, what)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(close_trace_file, file)


async def without_unwritable_trace(settings: Settings) -> Settings:
    """``settings``, without the trace where its file cannot be written: for who must go on."""
    if settings.trace:
        try:
            await _in_time(check_trace_file, settings.trace)
        except ConfigurationError as error:
            log.warning("goes on without a trace: %s", error)
            return replace(settings, trace="")
    return settings


async def _in_time(function: Callable[..., T], path: str, *arguments: Any) -> T:
    with anyio.move_on_after(OPEN_PATIENCE_S):
        return await anyio.to_thread.run_sync(
            functools.partial(function, path, *arguments), abandon_on_cancel=True
        )
    raise ConfigurationError("trace file", path, f"does not open within {OPEN_PATIENCE_S:g} s")
