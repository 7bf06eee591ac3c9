# SPDX-License-Identifier: Apache-2.0
"""UDP sockets on the event loop that runs now: asyncio-dgram on asyncio, anyio on trio.

The stream of asyncio-dgram keeps what comes until it is read. Each of the two is imported only
where it is used.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, Protocol

import anyio
import sniffio

from ..errors import ConnectError

Address = tuple[str, int]


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
    def __init__(self, udp: anyio.abc.UDPSocket) -> None:
        self._udp = udp

    @property
    def local(self) -> Address:
        name = self._udp.extra(anyio.abc.SocketAttribute.local_address)  # noqa: S610
        return str(name[0]), int(name[1])

    @property
    def socket(self) -> Any:
        return self._udp.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610

    async def send(self, data: bytes, to: Address) -> None:
        try:
            await self._udp.sendto(data, *to)
        except (OSError, anyio.BrokenResourceError) as error:
            raise _unsendable(error, to) from error

    async def receive(self) -> tuple[bytes, Address]:
        data, source = await self._udp.receive()
        return bytes(data), (str(source[0]), int(source[1]))


def _unsendable(error: Exception, to: Address) -> ConnectError:
    cause = error if isinstance(error, OSError) else error.__cause__
    reason = getattr(cause, "strerror", None) or str(error) or type(error).__name__
    return ConnectError(
        f"no datagram can be sent to {to[0]} port {to[1]}: {reason}", portal=to[0], reason=reason
    )


@contextlib.asynccontextmanager
async def open_datagrams(host: str, port: int = 0) -> AsyncIterator[Datagrams]:
    """A UDP socket bound to an address of this host (a literal); port 0 takes any.

    Raises:
        ConnectError: it cannot be bound.

    Cancellation: the socket is closed.
    """
    family: Any = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if sniffio.current_async_library() == "trio":
            udp = await anyio.create_udp_socket(family, local_host=host, local_port=port)
        else:
            stream = await _bind(family, host, port)
    except OSError as error:
        raise ConnectError(
            f"UDP address {host} port {port} cannot be used: {error.strerror}",
            portal=host,
            reason=error.strerror or str(error),
        ) from error
    if sniffio.current_async_library() == "trio":
        async with udp:
            yield _Anyio(udp)
        return
    try:
        yield _Asyncio(stream)
    finally:
        stream.close()


async def _bind(family: socket.AddressFamily, host: str, port: int) -> Any:
    import asyncio_dgram

    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind((host, port))
        return await asyncio_dgram.from_socket(sock)
    except BaseException:
        sock.close()
        raise
