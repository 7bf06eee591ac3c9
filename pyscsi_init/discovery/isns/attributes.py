# SPDX-License-Identifier: Apache-2.0
"""iSNS attributes: tag, length, value (RFC 4171 5.3, 6.1), and the kinds of values.

Text is UTF-8, ended by a NUL and filled up to four bytes with more of them; addresses are IPv6,
with IPv4 mapped into it; a port is 16 bits beside the bit that says UDP. Reading is lenient where
servers differ: text without its NUL or with too many, and IPv4 that is IPv4-compatible (::a.b.c.d)
instead of mapped.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

from construct import ConstructError, Int32ub, Struct

from ...errors import LocalProtocolError, ProtocolError

_TAG_AND_LENGTH: Any = Struct("tag" / Int32ub, "length" / Int32ub)
_NUMBER: Any = Int32ub

UDP_PORT = 0x10000
"""RFC 4171 6.3.2: bit 15 of a port attribute set means UDP."""
ISCSI_PROTOCOL = 2
"""RFC 4171 6.2.3: the Entity Protocol of iSCSI."""
MAX_TEXT = 255


class Tag(IntEnum):
    """The attributes that an iSCSI client uses (RFC 4171 6.1)."""

    DELIMITER = 0
    ENTITY_IDENTIFIER = 1
    ENTITY_PROTOCOL = 2
    TIMESTAMP = 4
    REGISTRATION_PERIOD = 6
    PORTAL_IP_ADDRESS = 16
    PORTAL_PORT = 17
    ESI_INTERVAL = 19
    ESI_PORT = 20
    SCN_PORT = 23
    ISCSI_NAME = 32
    ISCSI_NODE_TYPE = 33
    ISCSI_ALIAS = 34
    ISCSI_SCN_BITMAP = 35
    PG_ISCSI_NAME = 48
    PG_PORTAL_IP_ADDRESS = 49
    PG_PORTAL_PORT = 50
    PG_TAG = 51


class NodeType(IntFlag):
    """What a storage node is (RFC 4171 6.4.2)."""

    TARGET = 1
    INITIATOR = 2
    CONTROL = 4


class ScnBitmap(IntFlag):
    """What a state change notification is about (RFC 4171 6.4.4)."""

    MEMBER_ADDED = 0x01
    MEMBER_REMOVED = 0x02
    OBJECT_UPDATED = 0x04
    OBJECT_ADDED = 0x08
    OBJECT_REMOVED = 0x10
    MANAGEMENT = 0x20
    TARGET_AND_SELF_ONLY = 0x40
    INITIATOR_AND_SELF_ONLY = 0x80


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute. Without a value it asks for one, or says that there is none."""

    tag: int
    value: bytes = b""

    @property
    def text(self) -> str:
        """The value as text. Raises ProtocolError where it is none."""
        try:
            return self.value.partition(b"\0")[0].decode()
        except UnicodeDecodeError:
            raise ProtocolError(f"iSNS attribute {self.tag} is not UTF-8") from None

    @property
    def number(self) -> int:
        """The value as a number of 32 bits. Raises ProtocolError where it is none."""
        if len(self.value) != 4:
            raise ProtocolError(
                f"iSNS attribute {self.tag} has {len(self.value)} bytes instead of 4"
            )
        return int(_NUMBER.parse(self.value))

    @property
    def address(self) -> str:
        """The value as an IP address literal. Raises ProtocolError where it is none."""
        if len(self.value) != 16:
            raise ProtocolError(
                f"iSNS attribute {self.tag} has {len(self.value)} bytes instead of 16"
            )
        address = ipaddress.IPv6Address(self.value)
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if int(address) >> 32 == 0 and int(address) > 1:
            return str(ipaddress.IPv4Address(self.value[12:]))
        return str(address)


DELIMITER = Attribute(Tag.DELIMITER)


def text(tag: int, value: str) -> Attribute:
    """An attribute of text; the empty text asks for a value. Raises LocalProtocolError."""
    if not value:
        return Attribute(tag)
    data = value.encode()
    if len(data) > MAX_TEXT or b"\0" in data:
        raise LocalProtocolError(f"{value!r} cannot be an iSNS text of {MAX_TEXT} bytes")
    return Attribute(tag, data + bytes(4 - len(data) % 4))


def number(tag: int, value: int) -> Attribute:
    """An attribute of 32 bits."""
    return Attribute(tag, _NUMBER.build(value))


def address(tag: int, value: str) -> Attribute:
    """An attribute that is an IP address, given as a literal."""
    parsed = ipaddress.ip_address(value.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv4Address):
        # RFC 4171 6.3.1: "an IPv4-mapped IPv6 address"
        return Attribute(tag, bytes(10) + b"\xff\xff" + parsed.packed)
    return Attribute(tag, parsed.packed)


def encode_attributes(attributes: Iterable[Attribute]) -> bytes:
    """The payload that carries them."""
    return b"".join(
        _TAG_AND_LENGTH.build({"tag": each.tag, "length": len(each.value)}) + each.value
        for each in attributes
    )


def decode_attributes(payload: bytes) -> list[Attribute]:
    """The attributes of a payload.

    Raises:
        ProtocolError: a length that lies, or is not a multiple of 4.
    """
    found = []
    offset = 0
    while offset < len(payload):
        try:
            header = _TAG_AND_LENGTH.parse(payload[offset : offset + 8])
        except ConstructError:
            raise ProtocolError("iSNS payload ends inside an attribute's header") from None
        tag, length = int(header.tag), int(header.length)
        offset += 8
        if length % 4:
            # RFC 4171 5.3.1: "All attribute values are aligned to 4-byte boundaries."
            raise ProtocolError(f"iSNS attribute {tag} has {length} bytes, no multiple of 4")
        if length > len(payload) - offset:
            raise ProtocolError(f"iSNS attribute {tag} is longer than its message")
        found.append(Attribute(tag, payload[offset : offset + length]))
        offset += length
    return found
