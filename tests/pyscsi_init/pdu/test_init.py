# SPDX-License-Identifier: Apache-2.0
"""The doors of the package: decode by opcode for each direction, and serialize."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.pdu import (
    INITIATOR_PDUS,
    TARGET_PDUS,
    DataOut,
    Frame,
    Framer,
    NopOut,
    Pdu,
    ScsiCommand,
    decode_initiator_pdu,
    decode_target_pdu,
    digest_bytes,
    serialize,
)
from tests.properties.pdu_strategies import feed, wire


def frame_of(octets: bytes) -> Frame:
    framer = Framer(1 << 20)
    framer.receive_buffer()[: len(octets)] = octets
    framer.bytes_received(len(octets))
    frame = framer.next_frame()
    assert frame is not None
    return frame


@pytest.mark.parametrize("cls", INITIATOR_PDUS.values())
def test_initiator_pdus_are_for_targets(cls: type[Pdu]) -> None:
    """RFC 7143 11.2.1.2: an opcode of our own that comes back is a protocol error."""
    frame = frame_of(cls().encode())
    assert isinstance(decode_initiator_pdu(frame), cls)
    with pytest.raises(ProtocolError, match="target"):
        decode_target_pdu(frame)


@pytest.mark.parametrize("cls", TARGET_PDUS.values())
def test_target_pdus_are_for_initiators(cls: type[Pdu]) -> None:
    frame = frame_of(cls().encode())
    assert isinstance(decode_target_pdu(frame), cls)
    with pytest.raises(ProtocolError, match="initiator"):
        decode_initiator_pdu(frame)


@pytest.mark.conformance("PDU-003")
@pytest.mark.parametrize("opcode", sorted({*range(64)} - {*INITIATOR_PDUS} - {*TARGET_PDUS}))
def test_other_opcodes(opcode: int) -> None:
    frame = frame_of(bytes([opcode]) + bytes(47))
    for decode in (decode_target_pdu, decode_initiator_pdu):
        with pytest.raises(ProtocolError, match="opcode"):
            decode(frame)


def test_reserved_bits_of_byte_0_do_not_hide_the_opcode() -> None:
    frame = frame_of(b"\xe0" + bytes(47))
    assert frame.opcode == 0x20
    assert decode_target_pdu(frame).opcode == 0x20


def test_serialize_passes_the_data_on() -> None:
    data = memoryview(bytes(4096))
    header, sent = serialize(DataOut(data=data))
    assert len(header) == 48
    assert sent is data


@pytest.mark.parametrize("length", range(9))
@pytest.mark.parametrize("header_digest", [False, True])
@pytest.mark.parametrize("data_digest", [False, True])
def test_serialize(length: int, header_digest: bool, data_digest: bool) -> None:
    """RFC 7143 11.2.3: what follows what, pads of zero, no digest of nothing."""
    data = b"12345678"[:length]
    pdu = NopOut(data=data)
    padded = data + bytes(-length % 4)
    expected = pdu.encode()
    if header_digest:
        expected += digest_bytes(pdu.encode())
    expected += padded
    if data_digest and data:
        expected += digest_bytes(padded)
    assert b"".join(serialize(pdu, header_digest, data_digest)) == expected


@pytest.mark.conformance("PDU-010")
def test_digest_covers_bhs_and_ahs() -> None:
    pdu = ScsiCommand(cdb=bytes(20))
    (header,) = serialize(pdu, header_digest=True)
    assert header == pdu.encode() + digest_bytes(pdu.encode())


def test_serialize_refuses_what_does_not_fit() -> None:
    with pytest.raises(LocalProtocolError):
        serialize(NopOut(cmd_sn=1 << 32))


def test_two_hundred_pdus_in_one_piece() -> None:
    sent: list[Pdu] = [NopOut(cmd_sn=number, data=bytes(number % 7)) for number in range(200)]
    assert feed(Framer(8192), wire(sent)) == sent
