# SPDX-License-Identifier: Apache-2.0
"""PDUs with any field overridden: what an honest codec refuses to build.

A :class:`RawPdu` begins as a PDU of the codec, or as 48 bytes, and then lies where a test wants it
to: reserved bits, lengths, AHS, padding, digests. Lengths and digests that are not overridden are
right for what is sent.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import ProtocolError
from ...pdu import BHS_LENGTH, BytesLike, Pdu, digest_bytes


class Digest(enum.Enum):
    """What stands where a digest would."""

    NEGOTIATED = "right where digests were negotiated, else none"
    RIGHT = "right, negotiated or not"
    WRONG = "one bit of it is wrong"
    NONE = "left out"


@dataclass(slots=True)
class RawPdu:
    """48 bytes of BHS and what follows it, as they will be sent. Made by :func:`raw`."""

    header: bytearray
    ahs: bytes = b""
    data: bytes = field(default=b"", repr=False)
    pad: bytes | None = None
    header_digest: Digest = Digest.NEGOTIATED
    data_digest: Digest = Digest.NEGOTIATED
    flip: tuple[int, ...] = ()
    """Bytes of the finished PDU, of which one bit is turned over after the digests were made."""

    def serialize(self, header_digest: bool = False, data_digest: bool = False) -> bytes:
        """The bytes; the arguments are what was negotiated."""
        head = bytes(self.header) + self.ahs
        head += _digest(self.header_digest, header_digest, head)
        pad = bytes(-len(self.data) % 4) if self.pad is None else self.pad
        body = self.data + pad
        if body:
            body += _digest(self.data_digest, data_digest, body)
        whole = bytearray(head + body)
        for position in self.flip:
            whole[position] ^= 0x01
        return bytes(whole)


def _digest(wanted: Digest, negotiated: bool, covered: bytes) -> bytes:
    if wanted is Digest.NONE or (wanted is Digest.NEGOTIATED and not negotiated):
        return b""
    value = bytearray(digest_bytes(covered))
    if wanted is Digest.WRONG:
        value[0] ^= 0x01
    return bytes(value)


def raw(
    pdu: Pdu | BytesLike,
    *,
    data: BytesLike | None = None,
    ahs: bytes = b"",
    pad: bytes | None = None,
    total_ahs_length: int | None = None,
    data_segment_length: int | None = None,
    fill_reserved: bool = False,
    octets: Mapping[int, int] | None = None,
    header_digest: Digest = Digest.NEGOTIATED,
    data_digest: Digest = Digest.NEGOTIATED,
    flip: Iterable[int] = (),
    **fields: Any,
) -> RawPdu:
    """A PDU that may lie.

    Args:
        pdu: what to begin with: a PDU of the codec, or 48 bytes.
        data: another data segment; a DataSegmentLength that is not given follows it.
        ahs: additional header segments, appended as they are.
        pad: the bytes behind the data segment instead of zeros up to four bytes.
        total_ahs_length, data_segment_length: other values of the two length fields (words, bytes).
        fill_reserved: set each bit that the standard reserves.
        octets: position -> value of single bytes of the BHS, set last.
        header_digest, data_digest: right, wrong, absent, or as negotiated.
        flip: positions in the finished PDU of which one bit is turned over after the digests.
        fields: other values of named fields, for a PDU of the codec.
    """
    if isinstance(pdu, Pdu):
        changed = copy.copy(pdu)
        for name, value in fields.items():
            setattr(changed, name, value)
        if data is not None:
            changed.data = data
        encoded = changed.encode()
        header, own_ahs, segment = bytearray(encoded[:BHS_LENGTH]), encoded[48:], changed.data
        if fill_reserved:
            for position, bits in enumerate(reserved_bits(type(pdu))):
                header[position] |= bits
    else:
        header, own_ahs, segment = bytearray(pdu), b"", data or b""
        header[5:8] = len(segment).to_bytes(3, "big")
    whole_ahs = own_ahs + ahs
    header[4] = len(whole_ahs) // 4 if total_ahs_length is None else total_ahs_length
    if data_segment_length is not None:
        header[5:8] = data_segment_length.to_bytes(3, "big")
    for position, value in (octets or {}).items():
        header[position] = value
    return RawPdu(header, whole_ahs, bytes(segment), pad, header_digest, data_digest, tuple(flip))


_RESERVED: dict[type[Pdu], bytes] = {}


def reserved_bits(kind: type[Pdu]) -> bytes:
    """48 bytes in which the bits are set that mean nothing in this PDU.

    A bit means nothing where the declaration reads the same with it turned over; so the first two
    bits of byte 0 are among them, but for the I bit of an initiator's requests.
    """
    known = _RESERVED.get(kind)
    if known is None:
        known = _RESERVED[kind] = _find_reserved_bits(kind)
    return known


def _find_reserved_bits(kind: type[Pdu]) -> bytes:
    layout = kind.layout
    plain = bytearray(BHS_LENGTH)
    plain[0] = kind.opcode
    meaning = layout.parse(plain)
    found = bytearray(BHS_LENGTH)
    for position in range(BHS_LENGTH):
        for bit in (1 << shift for shift in range(8)):
            changed = bytearray(plain)
            changed[position] ^= bit
            try:
                same = layout.parse(changed) == meaning
            except ProtocolError:
                same = False
            if same:
                found[position] |= bit
    return bytes(found)
