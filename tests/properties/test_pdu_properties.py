# SPDX-License-Identifier: Apache-2.0
"""What must hold for every PDU, every segmentation and every sequence of bytes (RFC 7143 11)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import (
    DataIn,
    DataOut,
    Framer,
    Pdu,
    ReadyToTransfer,
    ScsiCommand,
    ScsiResponse,
    decode_initiator_pdu,
    decode_target_pdu,
)
from pyscsi_init.pdu.bhs import decode_declared, encode_declared
from tests.properties.pdu_strategies import (
    CLASSES,
    feed,
    pdus,
    pdus_of,
    plain_scsi_commands,
    wire,
)

FAST = [ScsiCommand, ScsiResponse, DataOut, DataIn, ReadyToTransfer]


@pytest.mark.parametrize("cls", CLASSES)
@given(data=st.data())
def test_round_trip(cls: type[Pdu], data: st.DataObject) -> None:
    pdu = data.draw(pdus_of(cls))
    encoded = pdu.encode()
    assert len(encoded) == 48 + encoded[4] * 4
    assert int.from_bytes(encoded[5:8], "big") == len(pdu.data)
    assert cls.decode(encoded[:48], encoded[48:], pdu.data) == pdu
    assert cls.decode(memoryview(encoded)[:48], memoryview(encoded)[48:], pdu.data) == pdu


# -- the fast path is the declaration ------------------------------------------------------------


@pytest.mark.parametrize("cls", FAST)
@given(data=st.data())
def test_fast_encoding_is_the_declared_one(cls: type[Pdu], data: st.DataObject) -> None:
    pdu = data.draw(plain_scsi_commands() if cls is ScsiCommand else pdus_of(cls))
    assert pdu.encode() == encode_declared(pdu)


@given(cdb=st.binary(max_size=16))
def test_short_cdbs_are_padded_alike(cdb: bytes) -> None:
    pdu = ScsiCommand(cdb=cdb)
    assert pdu.encode() == encode_declared(pdu)
    assert pdu.encode()[32:] == cdb.ljust(16, b"\0")


@pytest.mark.parametrize("cls", FAST)
@given(
    byte_0=st.sampled_from([0x00, 0x40, 0x80, 0xC0]),
    rest=st.binary(min_size=47, max_size=47),
    ahs=st.sampled_from([b"", b"", bytes.fromhex("0005020000000400")]),
    data=st.binary(max_size=8),
    true_lengths=st.booleans(),
)
def test_fast_decoding_is_the_declared_one(
    cls: type[Pdu], byte_0: int, rest: bytes, ahs: bytes, data: bytes, true_lengths: bool
) -> None:
    """Any header at all, reserved bits included: the same PDU, or both refuse."""
    header = bytearray([byte_0 | cls.opcode, *rest])
    if true_lengths:
        header[4:8] = [len(ahs) // 4, 0, 0, len(data)]
    assert _outcome(cls.decode, header, ahs, data) == _outcome(
        lambda *arguments: decode_declared(cls, *arguments), header, ahs, data
    )


def _outcome(decode: object, *arguments: object) -> object:
    assert callable(decode)
    try:
        return decode(*arguments)
    except ProtocolError:
        return ProtocolError


# -- framing ---------------------------------------------------------------------------------------


@pytest.mark.conformance("PDU-013")
@given(
    sent=st.lists(pdus, min_size=1, max_size=6),
    header_digest=st.booleans(),
    data_digest=st.booleans(),
    cuts=st.lists(st.integers(1, 200), max_size=60),
    more=st.binary(max_size=47),
)
def test_any_segmentation_gives_the_same_pdus(
    sent: list[Pdu], header_digest: bool, data_digest: bool, cuts: list[int], more: bytes
) -> None:
    """Whole, byte by byte, cut anywhere, with the beginning of another PDU behind it."""
    stream = wire(sent, header_digest, data_digest)
    chunkings = [[stream], [stream[at : at + 1] for at in range(len(stream))], [stream + more]]
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(stream[at : at + cut])
        at += cut
    chunkings.append([*pieces, stream[at:], more])
    for chunks in chunkings:
        framer = Framer(40)
        framer.header_digest = header_digest
        framer.data_digest = data_digest
        received = [pdu for chunk in chunks for pdu in feed(framer, chunk)]
        assert received == sent
        assert framer.pending == sum(map(len, chunks)) - len(stream)


@given(st.binary(max_size=400), st.booleans(), st.booleans())
def test_random_bytes_raise_protocol_error_only(
    octets: bytes, header_digest: bool, data_digest: bool
) -> None:
    framer = Framer(64)
    framer.header_digest = header_digest
    framer.data_digest = data_digest
    buffer = framer.receive_buffer()
    buffer[: len(octets)] = octets
    framer.bytes_received(len(octets))
    capacity = framer.capacity
    with suppress(ProtocolError):
        while (frame := framer.next_frame()) is not None:
            for decode in (decode_target_pdu, decode_initiator_pdu):
                with suppress(ProtocolError):
                    assert isinstance(decode(frame), Pdu)
    assert framer.capacity == capacity


@pytest.mark.parametrize("cls", CLASSES)
@given(
    header=st.binary(min_size=46, max_size=46),
    ahs=st.binary(max_size=24),
    data=st.binary(max_size=24),
    true_lengths=st.booleans(),
)
def test_random_fields_raise_protocol_error_only(
    cls: type[Pdu], header: bytes, ahs: bytes, data: bytes, true_lengths: bool
) -> None:
    full = bytearray([cls.opcode, *header, 0])
    if true_lengths:
        full[4:8] = [len(ahs) // 4, 0, 0, len(data)]
    with suppress(ProtocolError):
        pdu = cls.decode(full, ahs, data)
        assert isinstance(pdu, cls)
        assert isinstance(getattr(pdu, "sense", b""), bytes)
