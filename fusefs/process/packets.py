# SPDX-License-Identifier: Apache-2.0
"""What the holder, the zygote and the commands say to each other: packets with descriptors.

A packet is one JSON object on a line, after it perhaps bytes that are not looked at (a start
document with its secrets), and with it descriptors (SCM_RIGHTS). The sockets are SOCK_SEQPACKET, so
that a packet and its descriptors arrive together or not at all. Nothing here waits for a peer: what
cannot be sent at once stays in a queue until the peer reads.

INVARIANT: nothing but the standard library, because the holder imports this.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_PACKET_BYTES = 160 << 10
"""Twice the largest document; below what the kernel lets one send by default (212992)."""
MAX_DESCRIPTORS = 16
MAX_QUEUED = 4096
_UCRED = struct.Struct("iII")
_ANCILLARY = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)


class BadPacket(Exception):
    """Not a packet of this protocol. Never quotes it: it may hold secrets."""


@dataclass(slots=True)
class Packet:
    """One message. Whoever gets it owns the descriptors in it."""

    values: Mapping[str, Any]
    payload: bytes = b""
    descriptors: list[int] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Packet {sorted(self.values)}, {len(self.descriptors)} descriptors>"

    def take(self, name: str) -> int:
        """The descriptor called ``name`` in ``values["descriptors"]``; -1 where there is none.

        From now on it is the caller's.
        """
        names = self.values.get("descriptors")
        if not isinstance(names, list) or name not in names:
            return -1
        index = names.index(name)
        if index >= len(self.descriptors):
            return -1
        taken, self.descriptors[index] = self.descriptors[index], -1
        return taken

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        close_all(self.descriptors)
        self.descriptors = []


def close_all(descriptors: Sequence[int]) -> None:
    """Close what is a descriptor; -1 is none."""
    for descriptor in descriptors:
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def encode(values: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """The bytes of a packet."""
    data = json.dumps(values, separators=(",", ":")).encode() + b"\n" + payload
    if len(data) > MAX_PACKET_BYTES:
        raise ValueError(f"a packet of {len(data)} bytes, at most {MAX_PACKET_BYTES} are allowed")
    return data


def decode(data: bytes, descriptors: list[int]) -> Packet:
    """The packet of these bytes; on failure the descriptors are closed.

    Raises:
        BadPacket: it is none.
    """
    line, _, payload = data.partition(b"\n")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        close_all(descriptors)
        raise BadPacket("not a JSON object")
    return Packet(values, payload, descriptors)


def receive_with_descriptors(connection: socket.socket, limit: int) -> tuple[bytes, list[int]]:
    """recvmsg(2) with what descriptors came along, close-on-exec.

    Raises:
        BadPacket: more than one may send; nothing is kept.
        OSError: as the call.
    """
    data, ancillary, flags, _ = connection.recvmsg(limit, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
            descriptors += numbers
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(descriptors)
        raise BadPacket("too long, or too many descriptors")
    return data, descriptors


def receive(connection: socket.socket) -> Packet | None:
    """The next packet; None at the end. BlockingIOError where there is none yet."""
    data, descriptors = receive_with_descriptors(connection, MAX_PACKET_BYTES)
    return decode(data, descriptors) if data else None


def send_with_descriptors(
    connection: socket.socket, data: bytes | memoryview, descriptors: Sequence[int]
) -> int:
    """sendmsg(2); the descriptors stay the caller's."""
    ancillary = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        if descriptors
        else []
    )
    return connection.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


class Outbox:
    """What is to be sent on one socket, in order, without ever waiting. Copies each descriptor, so
    that its owner may close his at once."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._queue: deque[tuple[bytes, list[int]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put(
        self, values: Mapping[str, Any], payload: bytes = b"", descriptors: Sequence[int] = ()
    ) -> None:
        """Send, or keep until :meth:`flush`.

        Raises:
            OSError: the peer is gone, or never reads.
        """
        data = encode(values, payload)
        if not self._queue:
            with contextlib.suppress(BlockingIOError):
                send_with_descriptors(self._connection, data, descriptors)
                return
        if len(self._queue) >= MAX_QUEUED:
            raise OSError(errno.ENOBUFS, "the peer does not read")
        self._queue.append((data, [os.dup(each) for each in descriptors]))

    def flush(self) -> None:
        """Send what can be sent now. Raises OSError when the peer is gone."""
        while self._queue:
            data, descriptors = self._queue[0]
            try:
                send_with_descriptors(self._connection, data, descriptors)
            except BlockingIOError:
                return
            self._queue.popleft()
            close_all(descriptors)

    def close(self) -> None:
        """Drop what was not sent."""
        while self._queue:
            close_all(self._queue.popleft()[1])


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Process number and user of the other end (SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _gid = _UCRED.unpack(raw)
    return pid, uid
