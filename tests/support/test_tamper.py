# SPDX-License-Identifier: Apache-2.0
"""What the tamper lets pass is unchanged, however it is cut; what it is told to harm is harmed."""

from __future__ import annotations

import pytest

from pyscsi_init.pdu import DataIn, Framer, LoginResponse, NopOut, serialize
from tests.support.tamper import DATA_IN, NOP_OUT, TO_CLIENT, TO_TARGET, Tamper

LOGIN = b"".join(
    serialize(LoginResponse(transit=True, current_stage=1, next_stage=3, tsih=1, data=b"A=b\0"))
)


def pdus(count: int) -> list[bytes]:
    """Data-In of odd lengths, with both digests."""
    return [
        b"".join(serialize(DataIn(data_sn=index, data=bytes((index,)) * (index + 1)), True, True))
        for index in range(count)
    ]


@pytest.mark.parametrize("step", [1, 7, 48, 1000])
def test_what_passes_is_unchanged(step: int) -> None:
    stream = Tamper(header_digest=True, data_digest=True).connection()[TO_CLIENT]
    wire = LOGIN + b"".join(pdus(9))
    out = b"".join(stream.feed(wire[at : at + step]) for at in range(0, len(wire), step))
    assert out == wire


def test_pdus_vanish_and_are_damaged() -> None:
    tamper = Tamper(header_digest=True, data_digest=True)
    gone = tamper.withhold(TO_CLIENT, DATA_IN, skip=2)
    harmed = tamper.corrupt(TO_CLIENT, DATA_IN, every=3)
    streams = tamper.connection()
    wire = pdus(8)
    out = streams[TO_CLIENT].feed(LOGIN + b"".join(wire))[len(LOGIN) :]
    framer = Framer(4096)
    framer.header_digest = framer.data_digest = True
    framer.receive_buffer()[: len(out)] = out
    framer.bytes_received(len(out))
    found = []
    while (frame := framer.next_frame()) is not None:
        found.append((DataIn.decode(frame.header, frame.ahs, frame.data).data_sn, frame))
    assert [number for number, _ in found] == [0, 1, 3, 4, 5, 6, 7]
    assert [number for number, frame in found if not frame.data_digest_ok] == [3, 6]
    assert (gone.done, harmed.done) == (1, 2)
    assert tamper.seen == {(TO_CLIENT, DATA_IN): 8}


def test_the_login_phase_is_left_alone() -> None:
    tamper = Tamper()
    rule = tamper.withhold(TO_TARGET, NOP_OUT)
    stream = tamper.connection()[TO_TARGET]
    ping = b"".join(serialize(NopOut(initiator_task_tag=1)))
    assert stream.feed(ping) == ping
    assert rule.met == 0
