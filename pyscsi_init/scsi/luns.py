# SPDX-License-Identifier: Apache-2.0
"""Logical unit numbers: 8 opaque bytes on the wire, a small number for people.

SAM-5 4.7 gives a LUN four levels and several addressing methods, and targets use more of them than
initiators care to understand. So a LUN that a target reported is kept and sent back as the 8 bytes
it came in; the number is only a face for the common single-level forms, and a form that has no
number keeps its bytes. Nothing here says what an answer to a LUN means.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from ..errors import LocalProtocolError, ProtocolError
from .layout import BytesLike

LUN_LENGTH = 8
REPORT_LUNS_HEADER_LENGTH = 8
_PERIPHERAL, _FLAT = 0, 1
_LARGEST_FLAT = 0x3FFF

WELL_KNOWN_REPORT_LUNS = bytes.fromhex("c101000000000000")
"""The REPORT LUNS well known logical unit (SPC-4 8.2)."""


def encode_lun(lun: int | BytesLike) -> bytes:
    """The 8 bytes for a number, or for the bytes of a reported LUN themselves.

    Up to 255 the peripheral device method is used, up to 16383 the flat space method (SAM-5 4.7.5.2
    and 4.7.5.3): what every target that counts its LUNs understands.
    """
    if not isinstance(lun, int):
        if len(lun) != LUN_LENGTH:
            raise LocalProtocolError(f"a LUN has {LUN_LENGTH} bytes, not {len(lun)}")
        return bytes(lun)
    if not 0 <= lun <= _LARGEST_FLAT:
        raise LocalProtocolError(f"LUN {lun} is not between 0 and {_LARGEST_FLAT}")
    return struct.pack(">H6x", lun if lun < 256 else _FLAT << 14 | lun)


def decode_lun(lun: BytesLike) -> int | bytes:
    """The number of a single-level LUN on bus 0 or in flat space, else the 8 bytes themselves.

    Flat addressing of a small number and peripheral addressing of the same number give the same
    number here; who must send a LUN back keeps the bytes.
    """
    data = bytes(lun)
    if len(data) != LUN_LENGTH:
        raise ProtocolError(f"a LUN of {len(data)} bytes instead of {LUN_LENGTH}")
    first = int.from_bytes(data[:2], "big")
    method = first >> 14
    if any(data[2:]) or method not in (_PERIPHERAL, _FLAT) or (method == _PERIPHERAL and data[0]):
        return data
    return first & _LARGEST_FLAT


def lun_text(lun: BytesLike) -> str:
    """A LUN for people: the number where it has one, else its 8 bytes in hexadecimal."""
    number = decode_lun(lun)
    return str(number) if isinstance(number, int) else number.hex()


def report_luns_length(data: BytesLike) -> int:
    """How many bytes REPORT LUNS has to say altogether: the allocation length to ask again with."""
    if len(data) < REPORT_LUNS_HEADER_LENGTH:
        raise ProtocolError(f"REPORT LUNS data of {len(data)} bytes has no header")
    return REPORT_LUNS_HEADER_LENGTH + int.from_bytes(data[:4], "big")


def parse_report_luns(data: BytesLike) -> tuple[bytes, ...]:
    """The LUNs that are there, 8 bytes each.

    LUN LIST LENGTH counts all LUNs, also those that the allocation length cut off (SPC-4 6.33), so
    it bounds the list but is not required to be covered. A partial last entry is dropped.
    """
    end = min(len(data), report_luns_length(data))
    count = (end - REPORT_LUNS_HEADER_LENGTH) // LUN_LENGTH
    starts = range(REPORT_LUNS_HEADER_LENGTH, REPORT_LUNS_HEADER_LENGTH + count * LUN_LENGTH, 8)
    return tuple(bytes(data[start : start + LUN_LENGTH]) for start in starts)


def build_report_luns(luns: Iterable[int | BytesLike]) -> bytes:
    """REPORT LUNS parameter data for these LUNs."""
    entries = b"".join(encode_lun(lun) for lun in luns)
    return struct.pack(">I4x", len(entries)) + entries
