# SPDX-License-Identifier: Apache-2.0
"""iSNSP PDUs and the messages that they carry (RFC 4171 5.1, 5.2).

Owns the 12-byte header, its declaration, and the way of a message through one or several PDUs.
What the payload means belongs to attributes.py and messages.py. No I/O: bytes in, messages out.
Bad bytes raise ProtocolError and nothing else, and never make more than MAX_MESSAGE be kept.

An authentication block (5.5) is for multicast and broadcast; where one comes it is skipped, and
nothing here is more trusted for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

from construct import ConstructError, Int16ub, Int32ub, Struct

from ...errors import LocalProtocolError, ProtocolError

VERSION = 1
HEADER_LENGTH = 12
MAX_PAYLOAD = 0xFFFC
"""The PDU length has 16 bits and is a multiple of 4 (RFC 4171 5.1.3)."""
MAX_MESSAGE = 16 << 20
"""Bytes of all messages that have begun and not ended: some 50 000 targets with their portals."""
_MAX_AUTHENTICATION = 1 << 16

_HEADER: Any = Struct(
    "version" / Int16ub,
    "function_id" / Int16ub,
    "pdu_length" / Int16ub,
    "flags" / Int16ub,
    "transaction_id" / Int16ub,
    "sequence_id" / Int16ub,
)
_AUTHENTICATION: Any = Struct("descriptor" / Int32ub, "length" / Int32ub)

RESPONSE = 0x8000
"""The bit of the function that makes a response of it."""


class Function(IntEnum):
    """The functions of iSNSP that an iSCSI client meets (RFC 4171 4.1.3)."""

    DEV_ATTR_REG = 0x0001
    DEV_ATTR_QRY = 0x0002
    DEV_GET_NEXT = 0x0003
    DEV_DEREG = 0x0004
    SCN_REG = 0x0005
    SCN_DEREG = 0x0006
    SCN_EVENT = 0x0007
    SCN = 0x0008
    ESI = 0x000D


class Flags(IntFlag):
    """The flags of a PDU (RFC 4171 5.1.4)."""

    CLIENT = 0x8000
    SERVER = 0x4000
    AUTHENTICATION = 0x2000
    REPLACE = 0x1000
    LAST = 0x0800
    FIRST = 0x0400


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One iSNSP message, in as many PDUs as it takes."""

    function_id: int
    transaction_id: int
    payload: bytes = b""
    flags: Flags = Flags.CLIENT
    """Who sent it, and REPLACE; FIRST and LAST belong to the PDUs."""

    @property
    def is_response(self) -> bool:
        """It answers a request of the other side."""
        return bool(self.function_id & RESPONSE)

    def encode(self, max_payload: int = MAX_PAYLOAD) -> list[bytes]:
        """The PDUs. Raises LocalProtocolError for a payload that cannot be sent."""
        if len(self.payload) % 4:
            raise LocalProtocolError(f"an iSNS payload of {len(self.payload)} bytes is not aligned")
        count = max(1, -(-len(self.payload) // max_payload))
        if count > 0x10000:
            raise LocalProtocolError(f"an iSNS message of {len(self.payload)} bytes is too long")
        pdus = []
        for number in range(count):
            part = self.payload[number * max_payload : (number + 1) * max_payload]
            flags = self.flags
            if number == 0:
                flags |= Flags.FIRST
            if number == count - 1:
                flags |= Flags.LAST
            header: bytes = _HEADER.build(
                {
                    "version": VERSION,
                    "function_id": self.function_id,
                    "pdu_length": len(part),
                    "flags": int(flags),
                    "transaction_id": self.transaction_id,
                    "sequence_id": number,
                }
            )
            pdus.append(header + part)
        return pdus


@dataclass(slots=True)
class _Begun:
    flags: Flags
    payload: bytearray
    next_sequence_id: int


class MessageReader:
    """The messages of a byte stream, or of datagrams that carry one PDU each."""

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self._max_message = max_message
        self._buffer = bytearray()
        self._begun: dict[tuple[int, int], _Begun] = {}

    def feed(self, data: bytes) -> list[Message]:
        """The messages that end in ``data``, the next bytes of a TCP connection.

        Raises:
            ProtocolError: no iSNSP; the connection cannot be read any further.
        """
        self._buffer += data
        found = []
        while (pdu := self._next_pdu()) is not None:
            message = self._add(*pdu)
            if message is not None:
                found.append(message)
        return found

    def datagram(self, data: bytes) -> Message | None:
        """The message that ends with this datagram.

        Raises:
            ProtocolError: no iSNSP PDU, or more than one; other datagrams are not affected.
        """
        self._buffer = bytearray(data)
        try:
            pdu = self._next_pdu()
            if pdu is None or self._buffer:
                raise ProtocolError(f"a datagram of {len(data)} bytes is not one iSNS PDU")
        finally:
            self._buffer = bytearray()
        return self._add(*pdu)

    def _next_pdu(self) -> tuple[dict[str, int], bytes] | None:
        buffer = self._buffer
        if len(buffer) < HEADER_LENGTH:
            return None
        header = _parse(_HEADER, buffer[:HEADER_LENGTH])
        if header["version"] != VERSION:
            raise ProtocolError(f"iSNS version {header['version']}: this is no iSNS server of ours")
        length = header["pdu_length"]
        if length % 4:
            raise ProtocolError(f"iSNS PDU length {length} is not a multiple of 4")
        end = total = HEADER_LENGTH + length
        if header["flags"] & Flags.AUTHENTICATION:
            if len(buffer) < end + 8:
                return None
            block = _parse(_AUTHENTICATION, buffer[end : end + 8])["length"]
            if not 8 <= block <= _MAX_AUTHENTICATION:
                raise ProtocolError(f"iSNS authentication block of {block} bytes")
            total += block
        if len(buffer) < total:
            return None
        payload = bytes(buffer[HEADER_LENGTH:end])
        del buffer[:total]
        return header, payload

    def _add(self, header: dict[str, int], payload: bytes) -> Message | None:
        flags = Flags(header["flags"] & 0xFC00)
        key = header["function_id"], header["transaction_id"]
        if flags & Flags.FIRST:
            # A repeated message begins anew.
            self._begun[key] = _Begun(flags, bytearray(), 0)
        begun = self._begun.get(key)
        if begun is None:
            raise ProtocolError("an iSNS message that does not begin with its first PDU")
        # RFC 4171 5.1.6: "each SEQUENCE_ID value in each PDU MUST be numbered sequentially".
        if header["sequence_id"] != begun.next_sequence_id:
            del self._begun[key]
            raise ProtocolError(
                f"iSNS sequence id {header['sequence_id']} instead of {begun.next_sequence_id}"
            )
        begun.next_sequence_id += 1
        begun.payload += payload
        if flags & Flags.LAST:
            del self._begun[key]
            return Message(
                function_id=key[0],
                transaction_id=key[1],
                payload=bytes(begun.payload),
                flags=begun.flags & ~(Flags.FIRST | Flags.LAST),
            )
        # Each one that has begun costs something, also without a payload.
        kept = sum(len(one.payload) + 256 for one in self._begun.values())
        if kept > self._max_message:
            self._begun.clear()
            raise ProtocolError(f"iSNS messages of more than {self._max_message} bytes")
        return None


def _parse(struct: Any, data: bytes | bytearray) -> dict[str, int]:
    try:
        parsed = struct.parse(bytes(data))
    except ConstructError as error:
        raise ProtocolError(f"no iSNS header: {error}") from error
    return {name: parsed[name] for name in (each.name for each in struct.subcons)}
