# SPDX-License-Identifier: Apache-2.0
"""The worker's side of its control socket: JSON lines in, JSON lines out, for root only.

``ControlConnection`` is the protocol alone: bytes go in, requests come out. ``ControlServer`` moves
the bytes, on asyncio and on trio alike, with sockets that it waits for and never blocks on. The
socket lies in a 0700 directory and each peer's credentials are looked at besides (SO_PEERCRED), as
a descriptor of the directory may have been handed on.

INVARIANT: after ``open()`` nothing here imports, opens a file, or waits for a peer without a limit,
because the file system that such a thing might need may be the one this process serves
(tests/fusefs/process/test_worker.py).

A request may bring descriptors, and an answer too (SCM_RIGHTS): the handler finds them under
``DESCRIPTORS`` in the request, takes what it keeps out of the list, and puts those that are to go
with the answer under the same word of its result; those are closed when they were sent.

It knows no request by name: the handlers do.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from fusefs.process import places
from fusefs.process.messages import (
    MAX_LINE_BYTES,
    BadMessage,
    decode_line,
    encode_error,
    encode_line,
)
from fusefs.process.packets import (
    MAX_DESCRIPTORS,
    BadPacket,
    close_all,
    peer_of,
    receive_with_descriptors,
    send_with_descriptors,
)

SOCKET_NAME = places.CONTROL_SOCKET
MAX_CONNECTIONS = 16
IDLE_SECONDS = 60.0
DESCRIPTORS = "descriptors"
_CHUNK = 4096

Handler = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class ControlConnection:
    """Lines from bytes, within a limit."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, data: bytes) -> list[dict[str, Any]]:
        """The requests that are complete with ``data``.

        Raises:
            BadMessage: a line that is no JSON object, or no line within the limit; close then.
        """
        self._buffer += data
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        if len(rest) > MAX_LINE_BYTES:
            raise BadMessage("the line is too long")
        return [decode_line(line) for line in lines if line]


def directory_socket_path(descriptor: int) -> str:
    """The control socket's path through an open directory.

    sun_path has 108 bytes and a volume's directory may be longer; this form never is.
    """
    return places.through(descriptor, SOCKET_NAME)


class ControlServer:
    """Serves ``handlers`` on ``<directory>/control.sock``."""

    def __init__(self, directory: Path | str, handlers: Mapping[str, Handler]) -> None:
        self._directory = Path(directory)
        self._handlers = handlers
        self._listener: socket.socket | None = None
        self._directory_fd = -1
        self._connections = 0
        self._allowed_uids = frozenset((0, os.geteuid()))

    def open(self) -> None:
        """Bind and listen. The socket that a dead predecessor left is replaced."""
        self._directory_fd = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener = listener
        (self._directory / SOCKET_NAME).unlink(missing_ok=True)
        listener.bind(directory_socket_path(self._directory_fd))
        os.chmod(SOCKET_NAME, 0o600, dir_fd=self._directory_fd)
        listener.listen(MAX_CONNECTIONS)

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._directory_fd >= 0:
            try:
                os.unlink(SOCKET_NAME, dir_fd=self._directory_fd)
            except FileNotFoundError:
                pass
            finally:
                os.close(self._directory_fd)
                self._directory_fd = -1

    async def serve(self) -> None:
        """Accept and answer until cancelled; ``open()`` must have been called."""
        listener = self._listener
        assert listener is not None  # noqa: S101  (an order of calls inside this package)
        async with anyio.create_task_group() as group:
            while True:
                await anyio.wait_readable(listener)
                try:
                    connection, _ = listener.accept()
                except (BlockingIOError, ConnectionAbortedError):
                    continue
                if self._connections >= MAX_CONNECTIONS or not self._is_allowed(connection):
                    connection.close()
                    continue
                connection.setblocking(False)
                self._connections += 1
                group.start_soon(self._serve_connection, connection)

    def _is_allowed(self, connection: socket.socket) -> bool:
        return peer_of(connection)[1] in self._allowed_uids

    async def _serve_connection(self, connection: socket.socket) -> None:
        protocol = ControlConnection()
        descriptors: list[int] = []
        try:
            while True:
                with anyio.fail_after(IDLE_SECONDS):
                    data = await _receive(connection, descriptors)
                if not data:
                    return
                for request in protocol.receive(data):
                    request[DESCRIPTORS] = descriptors
                    reply, going = await self._answer(request)
                    with contextlib.ExitStack() as sent:
                        sent.callback(close_all, going)
                        with anyio.fail_after(IDLE_SECONDS):
                            await _send(connection, encode_line(reply), going)
        except (OSError, TimeoutError, BadMessage, BadPacket):
            return
        finally:
            close_all(descriptors)
            connection.close()
            self._connections -= 1

    async def _answer(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
        handler = self._handlers.get(str(request.get("request")))
        try:
            if handler is None:
                return {"ok": False, "error": {"class": "", "message": "unknown request"}}, []
            result = dict(await handler(request))
        except Exception as error:  # told to the peer; the data path goes on
            return {"ok": False, "error": encode_error(error)}, []
        named: dict[str, int] = result.pop(DESCRIPTORS, {})
        if named:
            result[DESCRIPTORS] = list(named)
        return {"ok": True, "result": result}, list(named.values())


async def _receive(connection: socket.socket, descriptors: list[int]) -> bytes:
    while True:
        try:
            data, received = receive_with_descriptors(connection, _CHUNK)
        except BlockingIOError:
            await anyio.wait_readable(connection)
            continue
        if len(descriptors) + len(received) > MAX_DESCRIPTORS:
            close_all(received)
            raise BadPacket("too many descriptors")
        descriptors += received
        return data


async def _send(connection: socket.socket, data: bytes, descriptors: list[int]) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[send_with_descriptors(connection, view, descriptors) :]
            descriptors = []
        except BlockingIOError:
            await anyio.wait_writable(connection)
