# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.2.1: what holds for the header of every PDU."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.pdu import INITIATOR_PDUS, TARGET_PDUS, Pdu
from pyscsi_init.pdu.bhs import check_lengths, decode_declared, encode_declared

CLASSES = [*INITIATOR_PDUS.values(), *TARGET_PDUS.values()]


@pytest.mark.parametrize("cls", CLASSES)
def test_wrong_opcode(cls: type[Pdu]) -> None:
    header = bytearray(cls().encode())
    header[0] ^= 0x08
    for decode in (cls.decode, lambda h: decode_declared(cls, h, b"", b"")):
        with pytest.raises(ProtocolError):
            decode(header)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("length", [0, 1, 47, 49])
def test_wrong_header_length(cls: type[Pdu], length: int) -> None:
    header = (cls().encode() + b"\0")[:length]
    for decode in (cls.decode, lambda h: decode_declared(cls, h, b"", b"")):
        with pytest.raises(ProtocolError):
            decode(header)


@pytest.mark.parametrize("cls", CLASSES)
def test_length_fields_must_be_true(cls: type[Pdu]) -> None:
    header = cls().encode()
    for decode in (cls.decode, lambda h, a=b"", d=b"": decode_declared(cls, h, a, d)):
        with pytest.raises(ProtocolError, match="DataSegmentLength 0"):
            decode(header, b"", b"data")
        with pytest.raises(ProtocolError, match="TotalAHSLength 0"):
            decode(header, b"\0\x02\x01\0", b"")
        longer = bytearray(header)
        longer[7] = 4
        with pytest.raises(ProtocolError, match="DataSegmentLength 4"):
            decode(longer)
        with_ahs = bytearray(header)
        with_ahs[4] = 2
        with pytest.raises(ProtocolError, match="TotalAHSLength 2"):
            decode(with_ahs)


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls.__name__ != "ScsiCommand"])
def test_an_ahs_is_for_scsi_commands_only(cls: type[Pdu]) -> None:
    """RFC 7143 11.2.1.5."""
    header = bytearray(cls().encode())
    header[4] = 2
    with pytest.raises(ProtocolError, match="AHS"):
        cls.decode(header, bytes.fromhex("0005020000000400"))


def test_length_that_is_no_multiple_of_four() -> None:
    with pytest.raises(ProtocolError, match="AHS 5 bytes"):
        check_lengths(Pdu, 1 << 24, bytes(5), b"")


@pytest.mark.parametrize("cls", CLASSES)
def test_a_data_segment_has_24_bits_of_length(cls: type[Pdu]) -> None:
    pdu = cls(data=bytes(1 << 24))
    with pytest.raises(LocalProtocolError):
        encode_declared(pdu)
    with pytest.raises(LocalProtocolError):
        pdu.encode()


def test_opcodes() -> None:
    """RFC 7143 11.2.1.2."""
    assert set(INITIATOR_PDUS) == {0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10}
    assert set(TARGET_PDUS) == {0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3F}
