# SPDX-License-Identifier: Apache-2.0
"""Asking a worker something over its control socket, never for longer than a deadline.

Each call is one connection: a client has no state that a worker's death could leave behind. A
worker that is not there, does not answer in time, or answers nonsense is ``WorkerFailed``; an
error that the worker answers with is raised as what it is.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import anyio

from fusefs.errors import WorkerFailed
from fusefs.process.control import directory_socket_path
from fusefs.process.messages import (
    MAX_LINE_BYTES,
    BadMessage,
    decode_error,
    decode_line,
    encode_line,
)

DEFAULT_DEADLINE_S = 5.0
_CHUNK = 16384


class ControlClient:
    """Requests to the worker of volume ``name``, whose directory is ``directory``."""

    def __init__(self, directory: Path | str, name: str) -> None:
        self._name = name
        self._directory = str(directory)

    async def call(
        self, request: str, *, deadline_s: float = DEFAULT_DEADLINE_S, **arguments: Any
    ) -> dict[str, Any]:
        """Send one request and return the result.

        Raises:
            WorkerFailed: no socket, no answer in time, or no answer of this protocol.
            IscsiError: what the worker answered with.

        Cancellation: the connection is closed; the worker may or may not act on the request.
        """
        line = encode_line({"request": request, **arguments})
        try:
            with anyio.fail_after(deadline_s):
                reply = decode_line(await self._exchange(line))
        except TimeoutError:
            raise WorkerFailed(
                self._name, f"no answer to {request!r} within {deadline_s:g} s"
            ) from None
        except OSError as error:
            raise WorkerFailed(
                self._name, f"its control socket cannot be used: {error.strerror or error}"
            ) from error
        except BadMessage as error:
            raise WorkerFailed(
                self._name, f"it answered {request!r} with nonsense: {error}"
            ) from error
        if reply.get("ok") is True and isinstance(reply.get("result"), dict):
            return dict(reply["result"])
        raise decode_error(reply.get("error"), self._name)

    async def _exchange(self, line: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
            directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # A full backlog is EAGAIN here: a worker that accepts nobody, an answer too.
                connection.connect(directory_socket_path(directory))
            finally:
                os.close(directory)
            view = memoryview(line)
            while view:
                try:
                    view = view[connection.send(view) :]
                except BlockingIOError:
                    await anyio.wait_writable(connection)
            received = bytearray()
            while not received.endswith(b"\n"):
                try:
                    data = connection.recv(_CHUNK)
                except BlockingIOError:
                    await anyio.wait_readable(connection)
                    continue
                if not data or len(received) > MAX_LINE_BYTES:
                    raise BadMessage("the answer has no end")
                received += data
            return bytes(received)
