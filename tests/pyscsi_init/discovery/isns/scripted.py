# SPDX-License-Identifier: Apache-2.0
"""An iSNS server that a test plays: bytes written here by hand, from RFC 4171's figures alone.

``ScriptedServer`` listens on loopback and gives each request to the test's function, which answers
with PDUs or not at all.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import anyio
import anyio.abc

ME = "iqn.2026-11.example.host:one"
D1, D2 = "iqn.2026-11.example:disk1", "iqn.2026-11.example:disk2"
SERVER, CLIENT, REPLACE, LAST, FIRST = 0x4000, 0x8000, 0x1000, 0x0800, 0x0400
REG, QRY, GET_NEXT, DEREG, SCN_REG, SCN_DEREG, SCN, ESI = 1, 2, 3, 4, 5, 6, 8, 13
UDP = 0x10000

Attributes = Iterable[tuple[int, bytes]]


def tlv(tag: int, value: bytes = b"") -> bytes:
    return struct.pack(">II", tag, len(value)) + value


def text(value: str, *, nul: int = 1) -> bytes:
    """Text, ``nul`` NULs, and as many more as the alignment takes."""
    data = value.encode() + bytes(nul)
    return data + bytes(-len(data) % 4)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def ip(value: str, *, compatible: bool = False) -> bytes:
    packed = bytes(int(part) for part in value.split("."))
    return bytes(12) + packed if compatible else bytes(10) + b"\xff\xff" + packed


def pdu(
    function: int,
    payload: bytes = b"",
    *,
    transaction: int = 1,
    sequence: int = 0,
    flags: int = SERVER | FIRST | LAST,
    version: int = 1,
) -> bytes:
    return (
        struct.pack(">HHHHHH", version, function, len(payload), flags, transaction, sequence)
        + payload
    )


def in_parts(function: int, payload: bytes, transaction: int, size: int) -> list[bytes]:
    """A message in PDUs of ``size`` bytes of payload."""
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    return [
        pdu(
            function,
            part,
            transaction=transaction,
            sequence=number,
            flags=SERVER | FIRST * (number == 0) | LAST * (number == len(parts) - 1),
        )
        for number, part in enumerate(parts)
    ]


@dataclass(frozen=True, slots=True)
class Received:
    """A request, taken apart by hand."""

    function: int
    transaction: int
    flags: int
    sequence: int
    payload: bytes

    @property
    def attributes(self) -> list[tuple[int, bytes]]:
        return attributes_of(self.payload)

    def values(self, tag: int) -> list[bytes]:
        return [value for each, value in self.attributes if each == tag]


def attributes_of(payload: bytes) -> list[tuple[int, bytes]]:
    found = []
    at = 0
    while at < len(payload):
        tag, length = struct.unpack_from(">II", payload, at)
        found.append((tag, payload[at + 8 : at + 8 + length]))
        at += 8 + length
    assert at == len(payload)
    return found


def take(data: bytearray) -> Received | None:
    """The next request of a stream."""
    if len(data) < 12:
        return None
    version, function, length, flags, transaction, sequence = struct.unpack_from(">HHHHHH", data)
    if len(data) < 12 + length:
        return None
    assert version == 1
    assert length % 4 == 0
    payload = bytes(data[12 : 12 + length])
    del data[: 12 + length]
    return Received(function, transaction, flags, sequence, payload)


def response(request: Received, *attributes: tuple[int, bytes], status: int = 0) -> bytes:
    """The one PDU of a response."""
    body = u32(status) + b"".join(tlv(*each) for each in attributes)
    return pdu(request.function | 0x8000, body, transaction=request.transaction)


def target(
    name: str, *portals: tuple[str, int, int | None], alias: str = ""
) -> list[tuple[int, bytes]]:
    """A target with portals and the tags of their groups; None is the NULL tag."""
    found = [(32, text(name)), (33, u32(1))]
    if alias:
        found.append((34, text(alias)))
    for host, port, tag in portals:
        found += [(16, ip(host)), (17, u32(port))]
        found += [(48, text(name)), (49, ip(host)), (50, u32(port))]
        found.append((51, b"" if tag is None else u32(tag)))
    return found


@dataclass
class ScriptedServer:
    """See the module's description. ``answer`` gets the server and the request."""

    answer: Callable[[ScriptedServer, Received], Awaitable[Iterable[bytes] | None]]
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    stream: anyio.abc.SocketStream | None = None
    """The connection that a request came by last."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[ScriptedServer]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        failure: Exception | None = None
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._serve)
            try:
                yield self
            except Exception as error:
                failure = error  # shall leave as itself, not in a group
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        self.connections += 1
        data = bytearray()
        with contextlib.suppress(
            anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError
        ):
            async with stream:
                while True:
                    data += await stream.receive()
                    while (request := take(data)) is not None:
                        self.received.append(request)
                        self.stream = stream
                        for part in await self.answer(self, request) or ():
                            await stream.send(part)

    def functions(self) -> list[int]:
        return [each.function for each in self.received]


class Honest:
    """The answers of a server that remembers one initiator and shows the targets it is given."""

    def __init__(self, targets: list[list[tuple[int, bytes]]] | None = None) -> None:
        self.targets = targets or []
        self.entity: bytes | None = None
        self.scn_port: int | None = None
        self.scn_registered = False
        self.assign: str | None = None
        """The entity identifier that the server insists on."""
        self.refuse: dict[int, list[int]] = {}
        """Function -> the statuses of its next answers."""

    async def __call__(self, server: ScriptedServer, request: Received) -> list[bytes]:
        statuses = self.refuse.get(request.function)
        if statuses:
            status = statuses.pop(0)
            if status:
                return [response(request, status=status)]
        answer = {
            REG: self._register,
            QRY: self._query,
            DEREG: self._deregister,
            SCN_REG: self._scn_register,
            SCN_DEREG: self._scn_deregister,
        }[request.function]
        return [answer(request)]

    def _register(self, request: Received) -> bytes:
        self.entity = text(self.assign) if self.assign else request.values(1)[0]
        ports = request.values(23)
        self.scn_port = int.from_bytes(ports[0], "big") if ports else None
        return response(request, (1, self.entity), (0, b""), (1, self.entity))

    def _query(self, request: Received) -> bytes:
        key = request.attributes[1]
        found: list[tuple[int, bytes]] = []
        if key[0] == 33:
            found = [each for one in self.targets for each in one]
        elif self.entity is not None:
            found = [(1, self.entity), (32, key[1])]
        return response(request, key, (0, b""), *found)

    def _deregister(self, request: Received) -> bytes:
        self.entity = self.scn_port = None
        return response(request)

    def _scn_register(self, request: Received) -> bytes:
        if self.scn_port is None:
            return response(request, status=17)
        self.scn_registered = True
        return response(request)

    def _scn_deregister(self, request: Received) -> bytes:
        self.scn_registered = False
        return response(request)


def scn(
    *changes: tuple[int, str], to: str = ME, transaction: int = 77, function: int = SCN
) -> bytes:
    """A notification: bitmaps and names."""
    body = tlv(32, text(to)) + tlv(4, bytes(8))
    for bitmap, name in changes:
        body += tlv(35, u32(bitmap)) + tlv(32, text(name))
    return pdu(function, body, transaction=transaction)
