# SPDX-License-Identifier: Apache-2.0
"""One check for every PDU: exact bytes, both directions, and the meaning of every single bit.

A golden case is an object, its 48 bytes in hexadecimal as drawn by hand from the figure of RFC
7143 section 11, and a mask of the bits that the figure defines. Each bit is then turned over: a
defined bit must change the decoded object or be refused, a reserved bit must make no difference
(RFC 7143 11: ignored on receipt), and must have been sent as zero unless the figure prints a 1.
"""

from __future__ import annotations

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import BHS_LENGTH, Pdu
from pyscsi_init.pdu.bhs import decode_declared, encode_declared


def check_golden(pdu: Pdu, header: str, defined: str, *, fixed: str = "", ahs: str = "") -> None:
    """``fixed`` are the bits that the figure prints as 1: sent as 1, ignored on receipt."""
    expected = bytes.fromhex(header)
    mask = bytes.fromhex(defined)
    ones = bytes.fromhex(fixed) if fixed else bytes(BHS_LENGTH)
    tail = bytes.fromhex(ahs)
    assert len(expected) == len(mask) == len(ones) == BHS_LENGTH

    assert pdu.encode().hex(" ", 4) == (expected + tail).hex(" ", 4)
    assert encode_declared(pdu) == expected + tail
    assert type(pdu).decode(expected, tail, pdu.data) == pdu
    assert decode_declared(type(pdu), expected, tail, pdu.data) == pdu

    for index in range(BHS_LENGTH):
        assert expected[index] & ~mask[index] & 0xFF == ones[index], f"byte {index}"
        for bit in (1 << shift for shift in range(8)):
            turned = bytearray(expected)
            turned[index] ^= bit
            where = f"byte {index} bit {bit:#04x}"
            if mask[index] & bit:
                assert _decoded(pdu, turned, tail) != pdu, where
            else:
                assert _decoded(pdu, turned, tail) == pdu, where

    everything = bytes(e | (~m & 0xFF) for e, m in zip(expected, mask, strict=True))
    assert _decoded(pdu, everything, tail) == pdu
    nothing = bytes(e & m for e, m in zip(expected, mask, strict=True))
    assert _decoded(pdu, nothing, tail) == pdu


def _decoded(pdu: Pdu, header: bytes | bytearray, ahs: bytes) -> Pdu | None:
    try:
        return type(pdu).decode(header, ahs, pdu.data)
    except ProtocolError:
        return None
