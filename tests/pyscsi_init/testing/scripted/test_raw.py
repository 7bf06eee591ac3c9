# SPDX-License-Identifier: Apache-2.0
"""The builder lies where it is told to and nowhere else; the splitter reads what was sent."""

from __future__ import annotations

import pytest

from pyscsi_init.pdu import (
    INITIATOR_PDUS,
    TARGET_PDUS,
    DataIn,
    NopIn,
    Pdu,
    ReadyToTransfer,
    ScsiCommand,
    digest_bytes,
    serialize,
)
from pyscsi_init.testing.scripted import Digest, Splitter, raw
from pyscsi_init.testing.scripted.raw import reserved_bits
from pyscsi_init.testing.scripted.witness_format import ALWAYS_SET, DEFINED

EVERY = [*INITIATOR_PDUS.values(), *TARGET_PDUS.values()]


@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_without_overrides_it_is_the_codec(kind: type[Pdu], digests: bool) -> None:
    pdu = kind(data=b"abcde" if kind.may_carry_data else b"")
    assert raw(pdu).serialize(digests, digests) == b"".join(serialize(pdu, digests, digests))


def test_fields_lengths_and_octets() -> None:
    built = raw(
        ReadyToTransfer(initiator_task_tag=5),
        initiator_task_tag=6,
        data=b"lie!",
        total_ahs_length=7,
        data_segment_length=0x123456,
        octets={0: 0x71, 47: 0xEE},
    ).serialize()
    assert built[0] == 0x71
    assert built[4] == 7
    assert built[5:8] == bytes.fromhex("123456")
    assert built[16:20] == bytes.fromhex("00000006")
    assert built[47] == 0xEE
    assert built[48:] == b"lie!"


def test_ahs_and_padding() -> None:
    built = raw(NopIn(), data=b"abc", ahs=b"1234", pad=b"\xff").serialize(True, True)
    header = built[:52]
    assert header[4] == 1
    assert built[5:8] == b"\0\0\3"
    assert built[52:56] == digest_bytes(header)
    assert built[56:60] == b"abc\xff"
    assert built[60:] == digest_bytes(b"abc\xff")


def test_digests() -> None:
    pdu = NopIn(data=b"abcd")
    right = raw(pdu).serialize(True, True)
    head, data = slice(48, 52), slice(56, 60)
    wrong = raw(pdu, header_digest=Digest.WRONG, data_digest=Digest.WRONG).serialize(True, True)
    assert [at for at in range(60) if wrong[at] != right[at]] == [48, 56]
    assert raw(pdu, header_digest=Digest.RIGHT).serialize()[head] == right[head]
    left_out = raw(pdu, header_digest=Digest.NONE, data_digest=Digest.NONE)
    assert left_out.serialize(True, True) == right[:48] + right[52:56]
    flipped = raw(pdu, flip=(20, -1)).serialize(True, True)
    assert [at for at in range(60) if flipped[at] != right[at]] == [20, 59]
    assert right[data] == digest_bytes(b"abcd")


@pytest.mark.parametrize("kind", TARGET_PDUS.values(), ids=lambda kind: kind.__name__)
def test_filling_the_reserved_bits_changes_no_meaning(kind: type[Pdu]) -> None:
    pdu = kind(data=b"ab" if kind.may_carry_data else b"")
    filled = raw(pdu, fill_reserved=True)
    assert filled.header != raw(pdu).header
    assert kind.decode(bytes(filled.header), b"", filled.data) == pdu


@pytest.mark.parametrize("kind", INITIATOR_PDUS.values(), ids=lambda kind: kind.__name__)
def test_the_hand_made_table_agrees_with_the_codec(kind: type[Pdu]) -> None:
    """Two readings of the same figures, but for the priority that iSCSIProtocolLevel 2 adds."""
    reserved = bytearray(reserved_bits(kind))
    reserved[1] &= 0x7F if kind.opcode in ALWAYS_SET else 0xFF
    if kind.opcode == 3:
        reserved[0] &= ~0x40  # the I bit of a Login Request is always set
    if kind is ScsiCommand:
        reserved[2] |= 0xF0
    assert bytes(bits ^ 0xFF for bits in DEFINED[kind.opcode]) == bytes(reserved)


@pytest.mark.parametrize("step", [1, 3, 48, 1000])
def test_the_splitter_gives_back_every_byte(step: int) -> None:
    stream = b"".join(
        raw(
            NopIn(initiator_task_tag=length), data=b"x" * length, ahs=bytes(4 * (length % 3))
        ).serialize(True, True)
        for length in range(12)
    )
    splitter = Splitter()
    splitter.header_digest = splitter.data_digest = True
    found = []
    for start in range(0, len(stream), step):
        splitter.feed(stream[start : start + step])
        while (wire := splitter.next_pdu()) is not None:
            found.append(wire)
    assert b"".join(wire.raw for wire in found) == stream
    assert [len(wire.data) for wire in found] == list(range(12))
    assert all(wire.header_digest_ok and wire.data_digest_ok for wire in found)


def test_the_splitter_refuses_nothing() -> None:
    splitter = Splitter()
    splitter.header_digest = splitter.data_digest = True
    splitter.feed(raw(DataIn(data=b"abcd"), flip=(48, 56)).serialize(True, True))
    wire = splitter.next_pdu()
    assert wire is not None
    assert (wire.header_digest_ok, wire.data_digest_ok) == (False, False)
    assert isinstance(wire.decode(), DataIn)
    splitter.header_digest = splitter.data_digest = False
    splitter.feed(b"\x1e" + bytes(47))
    wire = splitter.next_pdu()
    assert wire is not None
    assert wire.decode() is None
