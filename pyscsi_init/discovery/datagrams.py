# SPDX-License-Identifier: Apache-2.0
"""UDP sockets on the event loop that runs now: asyncio-dgram on asyncio, anyio on trio.

Sockets are made and bound here for both: anyio's own would resolve the address that it is bound
to, and that fails for literals too where loopback is the only interface.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, Protocol

import anyio
import sniffio

from ..errors import ConnectError
from ..transport.network import OWN, Network

Address = tuple[str, int]
_MAX_DATAGRAM = 65536


class Datagrams(Protocol):
    """An unconnected UDP socket."""

    @property
    def local(self) -> Address:
        """Address and port that it is bound to."""
        ...

    @property
    def socket(self) -> Any:
        """The socket, for its options."""
        ...

    async def send(self, data: bytes, to: Address) -> None:
        """Send one datagram. Raises ConnectError where there is no way to send it."""
        ...

    async def receive(self) -> tuple[bytes, Address]:
        """The next datagram, and where it came from.

        Cancellation: no datagram is lost.
        """
        ...


class _Asyncio:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def local(self) -> Address:
        name = self._stream.sockname
        return str(name[0]), int(name[1])

    @property
    def socket(self) -> Any:
        return self._stream.socket

    async def send(self, data: bytes, to: Address) -> None:
        try:
            await self._stream.send(data, to)
            # An error of sending is kept for the next call; it belongs to this one.
            _ = self._stream.exception
        except OSError as error:
            raise _unsendable(error, to) from error

    async def receive(self) -> tuple[bytes, Address]:
        while True:
            try:
                data, source = await self._stream.recv()
            except OSError:
                continue  # the error of an earlier datagram, which the network did not take
            return bytes(data), (str(source[0]), int(source[1]))


class _Anyio:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @property
    def local(self) -> Address:
        name = self._sock.getsockname()
        return str(name[0]), int(name[1])

    @property
    def socket(self) -> Any:
        return self._sock

    async def send(self, data: bytes, to: Address) -> None:
        try:
            while True:
                try:
                    self._sock.sendto(data, to)
                except BlockingIOError:
                    await anyio.wait_writable(self._sock)
                else:
                    return
        except OSError as error:
            raise _unsendable(error, to) from error

    async def receive(self) -> tuple[bytes, Address]:
        while True:
            await anyio.wait_readable(self._sock)
            try:
                data, source = self._sock.recvfrom(_MAX_DATAGRAM)
            except OSError:
                continue  # nothing there after all, or the error of an earlier datagram
            return data, (str(source[0]), int(source[1]))


def _unsendable(error: OSError, to: Address) -> ConnectError:
    reason = error.strerror or str(error)
    return ConnectError(
        f"no datagram can be sent to {to[0]} port {to[1]}: {reason}", portal=to[0], reason=reason
    )


@contextlib.asynccontextmanager
async def open_datagrams(
    host: str, port: int = 0, *, network: Network = OWN
) -> AsyncIterator[Datagrams]:
    """A UDP socket bound to an address of this host (a literal) in ``network``; port 0 takes any.

    Raises:
        ConnectError: it cannot be bound, or the network is not there.
        ConfigurationError: the network cannot be used, ever.

    Cancellation: the socket is closed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = await network.make_socket(family, socket.SOCK_DGRAM)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ConnectError(
            f"UDP address {host} port {port} cannot be used: {error.strerror}",
            portal=host,
            reason=error.strerror or str(error),
        ) from error
    with sock:
        if sniffio.current_async_library() == "trio":
            yield _Anyio(sock)
            return
        import asyncio_dgram

        stream = await asyncio_dgram.from_socket(sock)
        try:
            yield _Asyncio(stream)
        finally:
            stream.close()
