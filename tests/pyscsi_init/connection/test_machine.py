# SPDX-License-Identifier: Apache-2.0
"""One connection: its queue, its StatSN, its memory."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.connection import ConnectionMachine, ConnectionState
from pyscsi_init.connection.machine import IOV_MAX, MAX_REPLIES_QUEUED
from pyscsi_init.errors import ProtocolError
from pyscsi_init.login import LoginMachine
from pyscsi_init.pdu import DataOut, Framer, NopOut, ScsiCommand, decode_initiator_pdu
from pyscsi_init.settings import Settings


def connection() -> ConnectionMachine:
    settings = Settings()
    login = LoginMachine(
        settings,
        initiator_name="iqn.2026-11.example.host:one",
        target_name="iqn.2026-11.example:disk",
        isid=bytes(6),
        random_bytes=bytes,
    )
    machine = ConnectionMachine(login, settings, 0.0)
    sent(machine)
    return machine


def sent(machine: ConnectionMachine, at_most: int | None = None) -> bytes:
    """What a socket would have taken, in one call."""
    data = b"".join(machine.data_to_send())
    data = data if at_most is None else data[:at_most]
    machine.bytes_sent(len(data))
    return data


def decoded(data: bytes, *, header_digest: bool = False, data_digest: bool = False) -> list[Any]:
    framer = Framer(2**24 - 1)
    framer.header_digest, framer.data_digest = header_digest, data_digest
    pdus = []
    while data:
        buffer = framer.receive_buffer()
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        framer.bytes_received(count)
        data = data[count:]
        while (frame := framer.next_frame()) is not None:
            assert frame.data_digest_ok
            pdu: Any = decode_initiator_pdu(frame)
            pdu.data = bytes(pdu.data)
            pdus.append(pdu)
    assert framer.pending == 0
    return pdus


@given(
    payloads=st.lists(st.binary(max_size=300), min_size=1, max_size=20),
    cuts=st.lists(st.integers(1, 400), min_size=1),
    digests=st.tuples(st.booleans(), st.booleans()),
)
def test_partial_writes_never_tear_a_pdu(
    payloads: list[bytes], cuts: list[int], digests: tuple[bool, bool]
) -> None:
    """However little the socket takes at a time, whole PDUs arrive, in order; also those that were
    queued in between."""
    machine = connection()
    machine.header_digest, machine.data_digest = digests
    stream = b""
    for number, payload in enumerate(payloads):
        if number % 2:
            machine.send(DataOut(data=payload, data_sn=number))
        else:
            machine.send_raw(DataOut(data=payload, data_sn=number).encode(), memoryview(payload))
        stream += sent(machine, cuts[number % len(cuts)])
    while machine.data_to_send():
        stream += sent(machine, cuts[0])
    pdus = decoded(stream, header_digest=digests[0], data_digest=digests[1])
    assert [(pdu.data_sn, pdu.data) for pdu in pdus] == list(enumerate(payloads))


def test_no_more_buffers_at_once_than_sendmsg_takes() -> None:
    machine = connection()
    for number in range(3000):
        machine.send_raw(DataOut(data=b"abcd", data_sn=number).encode(), b"abcd")
    assert len(machine.data_to_send()) == IOV_MAX
    stream = b""
    while machine.data_to_send():
        stream += sent(machine)
    assert [pdu.data_sn for pdu in decoded(stream)] == list(range(3000))


@given(taken=st.integers(0, 10_000))
def test_release_keeps_what_was_announced(taken: int) -> None:
    """The owner of the memory gets it back at any moment; what its header promised is still
    sent."""
    machine = connection()
    buffer = bytearray(os.urandom(8192))
    kept = bytes(buffer)
    view = memoryview(buffer)
    for offset in (0, 4096):
        piece = view[offset : offset + 4096]
        machine.send_raw(DataOut(data=piece, buffer_offset=offset).encode(), piece)
    stream = sent(machine, min(taken, 8288))
    machine.release(view)
    assert not any(isinstance(each, memoryview) and each.obj is buffer for each in machine.outbox)
    buffer[:] = b"\xee" * 8192
    stream += sent(machine)
    assert b"".join(pdu.data for pdu in decoded(stream)) == kept


def test_marks_tell_what_has_left() -> None:
    machine = connection()
    machine.send_raw(bytes(48), b"abcd")
    mark = machine.queue_mark
    machine.send_raw(bytes(48))
    assert not machine.has_left(mark)
    sent(machine, 51)
    assert not machine.has_left(mark)
    sent(machine, 1)
    assert machine.has_left(mark)
    sent(machine)
    assert machine.has_left(machine.queue_mark)


def test_replies_are_bounded_by_what_the_target_reads() -> None:
    machine = connection()
    for _ in range(3):
        for _ in range(MAX_REPLIES_QUEUED):
            machine.reply(NopOut(immediate=True))
        with pytest.raises(ProtocolError):
            machine.reply(NopOut(immediate=True))
        while machine.data_to_send():
            sent(machine)


@pytest.mark.parametrize("start", [0, 5, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
def test_stat_sn_counts_modulo_32_bits(start: int) -> None:
    machine = connection()
    machine.exp_stat_sn = start
    for step in range(4):
        stat_sn = (start + step) & 0xFFFFFFFF
        assert machine.count_stat_sn(stat_sn)
        assert not machine.count_stat_sn(stat_sn)
        machine.check_stat_sn(stat_sn)
        machine.check_stat_sn((stat_sn + 1) & 0xFFFFFFFF)
        with pytest.raises(ProtocolError):
            machine.check_stat_sn((stat_sn + 2) & 0xFFFFFFFF)
        with pytest.raises(ProtocolError):
            machine.count_stat_sn((stat_sn + 2) & 0xFFFFFFFF)


def test_exp_stat_sn_is_that_of_the_moment() -> None:
    machine = connection()
    machine.exp_stat_sn = 41
    machine.send(ScsiCommand(final=True, cdb=bytes(16)))
    machine.count_stat_sn(41)
    machine.send(ScsiCommand(final=True, cdb=bytes(16)))
    assert [pdu.exp_stat_sn for pdu in decoded(sent(machine))] == [41, 42]


def test_a_lost_connection_sends_nothing_more() -> None:
    machine = connection()
    machine.send_raw(bytes(48))
    machine.lost()
    machine.lost()
    assert machine.data_to_send() == []
    assert machine.state is ConnectionState.S1_FREE
    assert machine.next_deadline() is None
