# SPDX-License-Identifier: Apache-2.0
"""Every PDU of RFC 7143 section 11 in both directions, and streams of them."""

from __future__ import annotations

import itertools

from pyscsi_init.login.text import encode_pairs
from pyscsi_init.pdu import (
    INITIATOR_PDUS,
    TARGET_PDUS,
    Framer,
    LoginRequest,
    LoginResponse,
    Pdu,
    ScsiCommand,
    ScsiResponse,
    TextResponse,
    build_sense_segment,
    decode_initiator_pdu,
    decode_target_pdu,
    parse_sense_segment,
    serialize,
)
from pyscsi_init.pdu.framer import INITIAL_CAPACITY
from pyscsi_init.scsi import SenseKey, build_sense
from tests.fuzz.target import FuzzTarget

TEXT = encode_pairs([("TargetName", "iqn.2026-11.example:disk"), ("AuthMethod", "CHAP,None")])
LONGEST_SEGMENT = 2048


def example(cls: type[Pdu]) -> Pdu:
    """One with data where it may have some."""
    if cls is ScsiResponse:
        sense = build_sense(SenseKey.UNIT_ATTENTION, 0x29, 0)
        return ScsiResponse(status=2, data=build_sense_segment(sense))
    if cls in (LoginRequest, LoginResponse, TextResponse):
        return cls(data=TEXT)
    return cls(data=b"d" * 37) if cls.may_carry_data else cls()


EXAMPLES: list[Pdu] = [
    *(example(cls) for cls in (*INITIATOR_PDUS.values(), *TARGET_PDUS.values())),
    ScsiCommand(cdb=bytes(32)),
    ScsiCommand(read=True, write=True, bidirectional_read_expected_data_transfer_length=512),
]


def wire(pdu: Pdu, header_digest: bool = False, data_digest: bool = False) -> bytes:
    return b"".join(bytes(each) for each in serialize(pdu, header_digest, data_digest))


def decoder(cls: type[Pdu]) -> FuzzTarget:
    def run(data: bytes) -> None:
        padded = data.ljust(48, b"\0")
        header = bytes([padded[0] & 0xC0 | cls.opcode]) + padded[1:48]
        end = 48 + header[4] * 4
        body = padded[end:]
        length = int.from_bytes(header[5:8], "big")
        if 0 <= len(body) - length <= 3:
            body = body[:length]  # padding is for the framer
        pdu = cls.decode(header, padded[48:end], body)
        # What was understood can be said again, and means the same.
        again = pdu.encode()
        assert cls.decode(again[:48], again[48:], pdu.data) == pdu
        assert repr(pdu)

    seeds = [wire(pdu) for pdu in EXAMPLES if type(pdu) is cls]
    return FuzzTarget(f"pdu {cls.__name__}", run, seeds)


def framer_of(data: bytes) -> tuple[Framer, bytes]:
    """The first byte says which digests are on."""
    framer = Framer(LONGEST_SEGMENT)
    kind = data[0] if data else 0
    framer.header_digest, framer.data_digest = bool(kind & 1), bool(kind & 2)
    return framer, data[1:]


def stream(data: bytes) -> None:
    """Bytes of a peer, in pieces: nothing is taken in beyond what was negotiated."""
    framer, rest = framer_of(data)
    step = 1 + (data[0] >> 2 if data else 0)
    while rest:
        buffer = framer.receive_buffer()
        count = min(len(buffer), len(rest), step * 8)
        buffer[:count] = rest[:count]
        framer.bytes_received(count)
        rest = rest[count:]
        while (frame := framer.next_frame()) is not None:
            assert len(frame.data) <= LONGEST_SEGMENT
            for decode in (decode_target_pdu, decode_initiator_pdu):
                if (decode is decode_target_pdu) == (frame.opcode >= 0x20):
                    decode(frame)
        assert framer.capacity == INITIAL_CAPACITY


def _stream_seeds() -> list[bytes]:
    seeds = []
    for kind in range(4):
        pdus = [wire(pdu, bool(kind & 1), bool(kind & 2)) for pdu in EXAMPLES]
        seeds += [bytes([kind | 0xF4]) + one + other for one, other in itertools.pairwise(pdus)]
    return seeds


TARGETS = [
    *(decoder(cls) for cls in (*INITIATOR_PDUS.values(), *TARGET_PDUS.values())),
    FuzzTarget("pdu stream", stream, _stream_seeds(), weight=6),
    FuzzTarget(
        "pdu sense segment",
        parse_sense_segment,
        [build_sense_segment(b"\x70" + bytes(17)), build_sense_segment(b"", b"x" * 9)],
    ),
]
