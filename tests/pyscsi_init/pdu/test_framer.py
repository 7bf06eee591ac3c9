# SPDX-License-Identifier: Apache-2.0
"""The framer: limits, digests, memory and cost. Segmentation as such is in tests/properties."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import HeaderDigestError, LocalProtocolError, ProtocolError
from pyscsi_init.pdu import (
    DataIn,
    Frame,
    Framer,
    LoginResponse,
    NopIn,
    Pdu,
    ReadyToTransfer,
    ScsiCommand,
    ScsiResponse,
    decode_target_pdu,
    digest_bytes,
)
from pyscsi_init.pdu.framer import INITIAL_CAPACITY
from tests.properties.pdu_strategies import feed, wire


def fill(framer: Framer, octets: bytes) -> None:
    buffer = framer.receive_buffer()
    buffer[: len(octets)] = octets
    framer.bytes_received(len(octets))


def one_frame(framer: Framer, octets: bytes) -> Frame:
    fill(framer, octets)
    frame = framer.next_frame()
    assert frame is not None
    return frame


def counting_moves(framer: Framer) -> list[int]:
    """The sizes of all moves of pending bytes from now on."""
    moved: list[int] = []
    make_room = framer._make_room

    def counted(needed: int) -> None:
        moved.append(framer.pending)
        make_room(needed)

    framer._make_room = counted  # type: ignore[method-assign]
    return moved


# -- length --------------------------------------------------------------------------------------


def test_nothing_yet() -> None:
    framer = Framer(8192)
    assert framer.next_frame() is None
    fill(framer, NopIn().encode()[:47])
    assert framer.next_frame() is None
    assert framer.pending == 47


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5])
def test_data_comes_without_padding(length: int) -> None:
    """RFC 7143 11.1: DataSegmentLength counts no padding."""
    frame = one_frame(Framer(8), wire([NopIn(data=b"12345"[:length])]))
    assert frame.data == b"12345"[:length]
    assert frame.opcode == 0x20


@pytest.mark.conformance("PDU-006")
def test_padding_may_be_anything() -> None:
    """RFC 7143 11.1: padding SHOULD be 0; the data digest covers whatever it is."""
    framer = Framer(8192)
    framer.data_digest = True
    data = bytes(510)
    padded = data + b"\xff\xff"
    frame = one_frame(framer, DataIn(data=data).encode() + padded + digest_bytes(padded))
    assert frame.data == data
    assert frame.data_digest_ok


@pytest.mark.parametrize("extra", [0, 1])
def test_the_limit_is_the_declared_length(extra: int) -> None:
    framer = Framer(512)
    fill(framer, DataIn(data=bytes(512 + extra)).encode())
    if not extra:
        assert framer.next_frame() is None
        return
    for _ in range(2):
        with pytest.raises(ProtocolError, match="513"):
            framer.next_frame()


@pytest.mark.conformance("PDU-014")
def test_nothing_is_allocated_for_a_pdu_that_is_too_long() -> None:
    framer = Framer(8192)
    fill(framer, LoginResponse(data=bytes((1 << 24) - 1)).encode())
    with pytest.raises(ProtocolError):
        framer.next_frame()
    assert framer.capacity == INITIAL_CAPACITY


def test_the_limit_can_be_raised_between_pdus() -> None:
    framer = Framer(16)
    assert feed(framer, wire([NopIn(data=bytes(16))])) == [NopIn(data=bytes(16))]
    framer.max_data_segment_length = 32
    assert feed(framer, wire([NopIn(data=bytes(32))])) == [NopIn(data=bytes(32))]
    framer.max_data_segment_length = 16
    with pytest.raises(ProtocolError):
        feed(framer, wire([NopIn(data=bytes(32))]))


@pytest.mark.conformance("PDU-007")
def test_an_ahs_in_a_response_does_not_break_the_framing() -> None:
    """RFC 7143 11.2.1.5."""
    header = bytearray(ScsiResponse(initiator_task_tag=5).encode())
    header[4] = 1
    framer = Framer(8192)
    fill(framer, bytes(header) + b"\0\x01\x07\0" + NopIn(stat_sn=9).encode())
    first = framer.next_frame()
    assert first is not None
    assert first.ahs == b"\0\x01\x07\0"
    with pytest.raises(ProtocolError):
        decode_target_pdu(first)
    second = framer.next_frame()
    assert second is not None
    assert decode_target_pdu(second) == NopIn(stat_sn=9)


# -- digests -------------------------------------------------------------------------------------


@pytest.mark.conformance("PDU-012")
@pytest.mark.parametrize("position", range(52))
def test_bad_header_digest(position: int) -> None:
    """RFC 7143 7.8: whichever bit is wrong, nothing of the PDU is used."""
    octets = bytearray(wire([ScsiResponse(initiator_task_tag=5)], header_digest=True))
    octets[position] ^= 0x10
    framer = Framer(8192)
    framer.header_digest = True
    fill(framer, bytes(octets) + bytes(16 * 1024))
    for _ in range(2):
        with pytest.raises(HeaderDigestError):
            framer.next_frame()


@pytest.mark.conformance("PDU-012")
def test_no_length_is_believed_before_its_digest() -> None:
    framer = Framer(8192)
    framer.header_digest = True
    octets = bytearray(wire([DataIn(data=bytes(4))], header_digest=True)[:48])
    octets[5] = 0xFF
    fill(framer, bytes(octets))
    assert framer.next_frame() is None
    fill(framer, bytes(4))
    with pytest.raises(HeaderDigestError):
        framer.next_frame()


def test_header_digest_covers_the_ahs() -> None:
    pdu = ScsiCommand(cdb=bytes(range(32)))
    octets = bytearray(wire([pdu], header_digest=True))
    assert octets[-4:] == digest_bytes(pdu.encode())
    octets[60] ^= 1
    framer = Framer(8192)
    framer.header_digest = True
    fill(framer, bytes(octets))
    with pytest.raises(HeaderDigestError):
        framer.next_frame()


@pytest.mark.parametrize("position", [48, 52, 53, 55, 56, 59])
def test_bad_data_digest_is_told_and_framing_goes_on(position: int) -> None:
    """Data, pad and digest count; RFC 7143 7.8 keeps the connection."""
    framer = Framer(8192)
    framer.data_digest = True
    octets = bytearray(wire([DataIn(data=b"abcde"), NopIn()], data_digest=True))
    assert octets[56:60] == bytes.fromhex("838beaec")
    octets[position] ^= 1
    fill(framer, bytes(octets))
    first, second = framer.next_frame(), framer.next_frame()
    assert first is not None
    assert not first.data_digest_ok
    assert second is not None
    assert second.data_digest_ok
    assert decode_target_pdu(second) == NopIn()


@pytest.mark.conformance("PDU-010")
def test_no_data_no_data_digest() -> None:
    """RFC 7143 11.2.3: "A zero-length Data Segment also implies a zero-length Data-Digest"."""
    stream = wire([NopIn(), NopIn(data=b"1")], data_digest=True)
    assert len(stream) == 48 + 48 + 4 + 4
    framer = Framer(8192)
    framer.data_digest = True
    assert feed(framer, stream) == [NopIn(), NopIn(data=b"1")]


def test_digests_start_with_the_next_pdu() -> None:
    """RFC 7143 6.2 and 13.1: the final login response has none, what follows it has both."""
    stream = wire([LoginResponse(data=b"a=b\0")]) + wire([NopIn(data=b"1")], True, True)
    for cut in (0, 48, 52, 60, 100):
        framer = Framer(8192)
        fill(framer, stream[:cut] if cut else stream)
        frame = framer.next_frame()
        if frame is None:
            fill(framer, stream[cut:])
            cut = 0
            frame = framer.next_frame()
        assert frame is not None
        assert decode_target_pdu(frame) == LoginResponse(data=b"a=b\0")
        framer.header_digest = framer.data_digest = True
        if cut:
            fill(framer, stream[cut:])
        frame = framer.next_frame()
        assert frame is not None
        assert frame.data_digest_ok
        assert decode_target_pdu(frame) == NopIn(data=b"1")
        assert framer.next_frame() is None


def test_digest_setting_is_looked_at_again_for_a_pending_pdu() -> None:
    framer = Framer(8192)
    stream = wire([NopIn(data=b"1234")], True, True)
    fill(framer, stream[:50])
    assert framer.next_frame() is None
    framer.header_digest = framer.data_digest = True
    assert feed(framer, stream[50:]) == [NopIn(data=b"1234")]


def test_a_digest_that_is_switched_off_is_not_waited_for() -> None:
    framer = Framer(8192)
    framer.header_digest = True
    fill(framer, wire([NopIn()]))
    assert framer.next_frame() is None
    framer.header_digest = False
    assert framer.next_frame() is not None
    framer.data_digest = True
    fill(framer, wire([NopIn(data=b"1234")]))
    assert framer.next_frame() is None
    framer.data_digest = False
    assert framer.next_frame() is not None


# -- memory and cost -----------------------------------------------------------------------------


def test_a_burst_is_cut_without_copying() -> None:
    framer = Framer(8192)
    moved = counting_moves(framer)
    sent = [DataIn(data_sn=number, data=bytes([number]) * 4096) for number in range(15)]
    fill(framer, wire(list(sent)))
    frames = []
    while (frame := framer.next_frame()) is not None:
        frames.append(frame)
    assert len({id(frame.data.obj) for frame in frames}) == 1
    assert len({id(frame.header.obj) for frame in frames}) == 1
    assert [decode_target_pdu(frame) for frame in frames] == sent
    assert moved == []
    assert framer.pending == 0


def test_an_emptied_buffer_starts_from_the_front_for_free() -> None:
    framer = Framer(8192)
    moved = counting_moves(framer)
    for _ in range(100):
        feed(framer, wire([NopIn(data=bytes(8000))]))
    assert moved == []
    assert framer.capacity == INITIAL_CAPACITY


@pytest.mark.parametrize("limit", [8192, 65536, 262144, 262145])
@pytest.mark.parametrize("size", [1, 1460, 4096, 65536, 1 << 20])
def test_bytes_moved_are_bounded_by_bytes_received(limit: int, size: int) -> None:
    framer = Framer(limit)
    framer.header_digest = framer.data_digest = True
    moved = counting_moves(framer)
    sent: list[Pdu] = []
    for number in range(4 if size == 1 else 24):
        sent.append(DataIn(data_sn=number, data=bytes([number]) * (limit - number)))
        sent.append(ReadyToTransfer(r2t_sn=number))
        sent.append(NopIn(data=bytes(number)))
    stream = wire(sent, True, True)
    received = [
        pdu for at in range(0, len(stream), size) for pdu in feed(framer, stream[at : at + size])
    ]
    assert received == sent
    assert sum(moved) <= len(stream)
    assert len(moved) <= 3 * len(sent)
    assert framer.capacity <= max(INITIAL_CAPACITY, 48 + 1020 + 4 + limit + 3 + 4)


def test_the_receive_buffer_is_never_empty_nor_tiny_after_small_pdus() -> None:
    framer = Framer(8192)
    stream = wire([NopIn(data=bytes(100)) for _ in range(3000)])
    while stream:
        buffer = framer.receive_buffer()
        assert len(buffer) >= 4096
        count = min(997, len(stream))
        buffer[:count] = stream[:count]
        framer.bytes_received(count)
        stream = stream[count:]
        while framer.next_frame() is not None:
            pass


def test_frames_of_a_buffer_that_grew_stay_as_they_were() -> None:
    framer = Framer(2 * INITIAL_CAPACITY)
    stream = wire([NopIn(data=b"first"), DataIn(data=b"\xaa" * (INITIAL_CAPACITY + 40_000))])
    fill(framer, stream[:60_000])
    first = framer.next_frame()
    assert first is not None
    assert framer.next_frame() is None
    copy = bytes(first.data)
    received = feed(framer, stream[60_000:])
    assert framer.capacity > INITIAL_CAPACITY
    assert first.data == copy
    assert received == [DataIn(data=b"\xaa" * (INITIAL_CAPACITY + 40_000))]


def test_frames_that_nobody_takes() -> None:
    framer = Framer(8192)
    octets = wire([NopIn() for _ in range(INITIAL_CAPACITY // 48 + 1)])
    fill(framer, octets[:INITIAL_CAPACITY])
    with pytest.raises(LocalProtocolError, match="next_frame"):
        framer.receive_buffer()
    assert framer.next_frame() is not None
    assert len(framer.receive_buffer()) == 48


@pytest.mark.parametrize("count", [-1, INITIAL_CAPACITY + 1])
def test_more_than_was_asked_for(count: int) -> None:
    framer = Framer(8192)
    framer.receive_buffer()
    with pytest.raises(LocalProtocolError):
        framer.bytes_received(count)


def test_a_large_pdu_by_single_bytes_is_not_quadratic() -> None:
    """Each call without a whole PDU looks at two numbers, however much is pending."""
    framer = Framer(1 << 20)
    sent = DataIn(data=bytes(1 << 20))
    stream = wire([sent])
    fill(framer, stream[:48])
    assert framer.next_frame() is None
    framer.view, kept = None, framer.view  # type: ignore[assignment]
    looked = [framer.next_frame() for _ in range(1000)]
    framer.view = kept
    assert looked == [None] * 1000
    assert feed(framer, stream[48:]) == [sent]
