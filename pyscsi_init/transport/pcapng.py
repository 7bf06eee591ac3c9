# SPDX-License-Identifier: Apache-2.0
"""The bytes of a TCP connection as a capture file that Wireshark reads: pcapng, IP packets.

Nothing was captured: a socket delivers a byte stream, and the packets are made up around it. What
is true in them are addresses, ports, payload, order and time. Sequence numbers count from 0, each
packet acknowledges all that came before it, and the window is always open. The checksums are right,
so that a reader that checks them finds no fault.

Pure: it knows no file, no socket and no clock. The format is draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from struct import Struct

LINKTYPE_RAW = 101
"""Packets begin with their IP header, version 4 or 6."""

LONGEST_SEGMENT = 61440
"""Payload of one made-up packet: its IP length field has 16 bits."""

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_COMMENT, _APPLICATION, _INTERFACE_NAME, _TIME_RESOLUTION, _PACKET_FLAGS = 1, 4, 2, 9, 2
_INBOUND, _OUTBOUND = 1, 2
_LONGEST_COMMENT = 65000

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
_SYN_OPTIONS = bytes.fromhex("0204 f000 0103030e".replace(" ", ""))
"""MSS 61440, and a window scale of 14: windows that nothing is ever too much for."""

_BLOCK = Struct("<II")
_ENHANCED_PACKET = Struct("<IIIIIII")
_OPTION = Struct("<HH")
_TCP = Struct(">HHIIBBHHH")
_IPV4 = Struct(">BBHHHBBH4s4s")
_IPV6 = Struct(">IHBB16s16s")
_MASK = 0xFFFFFFFF

Address = tuple[str, int]
"""Host and port."""


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value + bytes(-len(value) & 3)


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return _BLOCK.pack(kind, length) + body + length.to_bytes(4, "little")


def section(application: str, interface: str, comment: str = "") -> bytes:
    """The blocks that a file begins with, and each further part of it: header and interface.
    Timestamps are nanoseconds."""
    options = _option(_COMMENT, comment.encode()) if comment else b""
    options += _option(_APPLICATION, application.encode()) + _option(0, b"")
    header = Struct("<IHHq").pack(_BYTE_ORDER_MAGIC, 1, 0, -1) + options
    options = _option(_INTERFACE_NAME, interface.encode()) + _option(_TIME_RESOLUTION, b"\x09")
    description = Struct("<HHI").pack(LINKTYPE_RAW, 0, 0) + options + _option(0, b"")
    return _block(_SECTION, header) + _block(_INTERFACE, description)


def packet_block(packet: bytes, nanoseconds: int, *, outward: bool, comment: str = "") -> bytes:
    """An Enhanced Packet Block; ``nanoseconds`` since 1970."""
    length = len(packet)
    fields = _ENHANCED_PACKET.pack(
        _PACKET,
        0,
        0,
        nanoseconds >> 32,
        nanoseconds & _MASK,
        length,
        length,
    )[8:]
    options = _option(_PACKET_FLAGS, bytes([_OUTBOUND if outward else _INBOUND, 0, 0, 0]))
    if comment:
        options += _option(_COMMENT, comment.encode("utf-8", "replace")[:_LONGEST_COMMENT])
    return _block(_PACKET, fields + packet + bytes(-length & 3) + options + _option(0, b""))


def whole_blocks(data: bytes, start: int = 0) -> int:
    """How far ``data`` consists of whole blocks; ``start`` is the beginning of one."""
    while len(data) - start >= 12:
        length = int.from_bytes(data[start + 4 : start + 8], "little")
        if length < 12 or length & 3 or length > len(data) - start:
            break
        start += length
    return start


def is_pcapng(beginning: bytes) -> bool:
    """Whether a file that begins so is one of these."""
    magic = _BYTE_ORDER_MAGIC.to_bytes(4, "little")
    return beginning[:4] == _SECTION.to_bytes(4, "little") and beginning[8:12] == magic


def _checksum(data: bytes) -> int:
    """RFC 1071. The one's complement sum of 16-bit words is the number modulo 65535, and Python
    divides long numbers faster than it adds many short ones."""
    remainder = int.from_bytes(data + b"\0" if len(data) & 1 else data, "big") % 0xFFFF
    return 0xFFFF - remainder if remainder else (0 if any(data) else 0xFFFF)


class Conversation:
    """One TCP connection as packets, from SYN to FIN or RST; ``outward`` is from us to them."""

    def __init__(self, local: Address, remote: Address) -> None:
        ours, theirs = (
            ipaddress.ip_address(host.partition("%")[0]).packed for host, _ in (local, remote)
        )
        self._hosts = {True: (ours, theirs), False: (theirs, ours)}
        self._ports = {True: (local[1], remote[1]), False: (remote[1], local[1])}
        self._sent = {True: 0, False: 0}
        """The next sequence number of each direction."""
        self._identification = 0

    def opening(self) -> Iterator[tuple[bool, bytes]]:
        """The three packets that open it."""
        yield True, self._packet(True, SYN, b"")
        yield False, self._packet(False, SYN | ACK, b"")
        yield True, self._packet(True, ACK, b"")

    def data(self, outward: bool, payload: bytes) -> Iterator[bytes]:
        """The packets that carry ``payload``."""
        for start in range(0, len(payload), LONGEST_SEGMENT):
            yield self._packet(outward, PSH | ACK, payload[start : start + LONGEST_SEGMENT])

    def end(self, outward: bool, *, reset: bool) -> bytes:
        """One side closes."""
        return self._packet(outward, (RST if reset else FIN) | ACK, b"")

    def _packet(self, outward: bool, flags: int, payload: bytes) -> bytes:
        sequence = self._sent[outward]
        acknowledged = self._sent[not outward] if flags & ACK else 0
        self._sent[outward] = (sequence + len(payload) + (1 if flags & (SYN | FIN) else 0)) & _MASK
        options = _SYN_OPTIONS if flags & SYN else b""
        source, destination = self._hosts[outward]
        length = 20 + len(options) + len(payload)
        ports = self._ports[outward]
        window = 0xFFFF

        def header(checksum: int) -> bytes:
            offset = (20 + len(options)) << 2
            return (
                _TCP.pack(*ports, sequence, acknowledged, offset, flags, window, checksum, 0)
                + options
            )

        pseudo = source + destination + length.to_bytes(4, "big") + b"\0\0\0\x06"
        segment = header(_checksum(pseudo + header(0) + payload)) + payload
        return self._ip_header(source, destination, length) + segment

    def _ip_header(self, source: bytes, destination: bytes, length: int) -> bytes:
        if len(source) == 16:
            return _IPV6.pack(0x60000000, length, 6, 64, source, destination)
        self._identification = (self._identification + 1) & 0xFFFF
        fields = (0x45, 0, length + 20, self._identification, 0x4000, 64, 6)
        checksum = _checksum(_IPV4.pack(*fields, 0, source, destination))
        return _IPV4.pack(*fields, checksum, source, destination)
