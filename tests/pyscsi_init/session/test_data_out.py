# SPDX-License-Identifier: Apache-2.0
"""Commands and their write data (RFC 7143 4.2.5.2, 11.3, 11.7, 11.8)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import DataOut, ScsiCommand
from pyscsi_init.session import Warned
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import LUN_5, RESERVED, Script, data_of

YES_NO = ("Yes", "No")


def split(pdus: list[Any]) -> tuple[ScsiCommand, list[DataOut]]:
    """The command and the data that came with it unasked."""
    assert isinstance(pdus[0], ScsiCommand)
    assert all(isinstance(pdu, DataOut) for pdu in pdus[1:])
    return pdus[0], pdus[1:]


def test_ffp_001_flags_of_the_scsi_command() -> None:
    """RFC 7143 11.3.1: R and W say the direction, F that no unsolicited data follows."""
    script = Script().log_in()
    script.read(0)
    script.read(512)
    script.write(bytes(512))
    script.write(b"")
    nothing, read, write, empty = script.take()
    assert (nothing.final, nothing.read, nothing.write) == (True, False, False)
    assert (read.final, read.read, read.write) == (True, True, False)
    assert (write.final, write.read, write.write) == (True, False, True)
    assert (empty.final, empty.expected_data_transfer_length) == (True, 0)
    for pdu in (nothing, read, write, empty):
        assert (pdu.attr, pdu.pri) == (1, 0)


def test_ffp_001_f_is_clear_while_unsolicited_data_follows() -> None:
    script = Script(ImmediateData="No").log_in()
    script.write(bytes(512))
    command, data = split(script.take())
    assert (command.final, command.write, len(command.data)) == (False, True, 0)
    assert [pdu.final for pdu in data] == [True]


def test_ffp_002_the_expected_length_is_that_of_the_buffer() -> None:
    """RFC 7143 11.3.4: Expected Data Transfer Length is the size of the transfer."""
    script = Script().log_in()
    script.read(36)
    script.write(bytes(4096))
    assert [pdu.expected_data_transfer_length for pdu in script.take()] == [36, 4096]


@pytest.mark.parametrize("initial_r2t", YES_NO)
@pytest.mark.parametrize("immediate", YES_NO)
@pytest.mark.quirk("Q-04")
def test_ffp_003_what_may_be_sent_unasked(initial_r2t: str, immediate: str) -> None:
    """RFC 7143 13.10, 13.11: InitialR2T and ImmediateData together decide what comes first."""
    script = Script(
        InitialR2T=initial_r2t,
        ImmediateData=immediate,
        FirstBurstLength="65536",
        MaxRecvDataSegmentLength="8192",
    ).log_in()
    payload = os.urandom(262144)
    write = script.write(payload)
    command, data = split(script.take())
    first = 8192 if immediate == "Yes" else 0
    assert len(command.data) == first
    unsolicited = 65536 - first if initial_r2t == "No" else 0
    assert data_of(data) == payload[first : first + unsolicited]
    sent = first + unsolicited
    assert script.take() == []
    script.send(script.r2t(command, sent, 262144 - sent))
    assert command.data + data_of(data) + data_of(script.take()) == payload
    script.send(script.response(command))
    assert write.done
    assert write.error is None


@pytest.mark.parametrize("length", [1, 512, 513, 4096, 8192])
@pytest.mark.parametrize("initial_r2t", YES_NO)
def test_ffp_004_immediate_data_is_bounded(length: int, initial_r2t: str) -> None:
    """RFC 7143 11.3.4: immediate data is at most min(FirstBurstLength, the target's
    MaxRecvDataSegmentLength); F is set where it is all."""
    script = Script(
        InitialR2T=initial_r2t, MaxRecvDataSegmentLength="512", FirstBurstLength="4096"
    ).log_in()
    script.write(bytes(range(256)) * 32 if length == 8192 else bytes(length))
    command, data = split(script.take())
    assert len(command.data) == min(length, 512)
    if length <= 512:
        assert command.final
        assert data == []
    assert command.final is (initial_r2t == "Yes" or length <= 512)
    assert all(len(pdu.data) <= 512 for pdu in data)


@pytest.mark.parametrize("immediate", YES_NO)
def test_ffp_005_unsolicited_data_is_all_of_the_first_burst(immediate: str) -> None:
    """RFC 7143 4.2.5.2, 13.10: if any, then exactly min(FirstBurstLength, the whole); DataSN from
    0, the reserved tag, F on the last."""
    script = Script(
        ImmediateData=immediate, FirstBurstLength="4096", MaxRecvDataSegmentLength="1024"
    ).log_in()
    payload = os.urandom(10000)
    script.write(payload)
    command, data = split(script.take())
    first = 1024 if immediate == "Yes" else 0
    assert not command.final
    assert command.data + data_of(data) == payload[:4096]
    assert [pdu.data_sn for pdu in data] == list(range(len(data)))
    assert [pdu.buffer_offset for pdu in data] == list(range(first, 4096, 1024))
    assert [pdu.final for pdu in data] == [False] * (len(data) - 1) + [True]
    assert {pdu.target_transfer_tag for pdu in data} == {RESERVED}
    script.send(script.r2t(command, 4096, 5904))
    assert data_of(script.take()) == payload[4096:]


def test_ffp_006_unsolicited_data_comes_in_command_order() -> None:
    """RFC 7143 4.2.5.2: unsolicited data of a command precedes that of the next."""
    script = Script(ImmediateData="No", MaxRecvDataSegmentLength="1024").log_in()
    for _ in range(3):
        script.write(bytes(4096))
    pdus = script.take()
    tags = [pdu.initiator_task_tag for pdu in pdus]
    assert tags == sorted(tags, key=tags.index)
    assert [isinstance(pdu, ScsiCommand) for pdu in pdus] == [True, *[False] * 4] * 3


@pytest.mark.parametrize("tag", [0, 1, 0xFFFFFFFE])
def test_ffp_007_an_r2t_is_answered_exactly(tag: int) -> None:
    """RFC 7143 11.7, 11.8: the bytes asked for, the tag and LUN copied, DataSN from 0, F last."""
    script = Script(InitialR2T="Yes", ImmediateData="No", MaxRecvDataSegmentLength="1024").log_in()
    payload = os.urandom(8192)
    write = script.write(payload, lun=5)
    command = script.one(ScsiCommand)
    for number, (offset, length) in enumerate([(0, 2048), (2048, 6144)]):
        script.send(script.r2t(command, offset, length, r2t_sn=number, target_transfer_tag=tag))
        data = script.take()
        assert data_of(data) == payload[offset : offset + length]
        assert [pdu.data_sn for pdu in data] == list(range(length // 1024))
        assert [pdu.buffer_offset for pdu in data] == list(range(offset, offset + length, 1024))
        assert [pdu.final for pdu in data] == [False] * (len(data) - 1) + [True]
        assert {pdu.target_transfer_tag for pdu in data} == {tag}
        assert {bytes(pdu.lun) for pdu in data} == {LUN_5}
        assert {pdu.initiator_task_tag for pdu in data} == {command.initiator_task_tag}
    script.send(script.response(command))
    assert write.done


def test_ffp_008_data_out_keeps_to_the_limits() -> None:
    """RFC 7143 11.7.1, 13.12: no PDU above the target's MaxRecvDataSegmentLength, and only the last
    one may be no multiple of 4."""
    script = Script(MaxRecvDataSegmentLength="513", FirstBurstLength="4096").log_in()
    payload = os.urandom(65536)
    script.write(payload)
    command, data = split(script.take())
    script.send(script.r2t(command, 4096, 61440))
    data += script.take()
    assert command.data + data_of(data) == payload
    assert all(len(pdu.data) <= 513 for pdu in data)
    assert all(len(pdu.data) % 4 == 0 for pdu in data if not pdu.final)


def test_ffp_009_r2ts_of_a_task_are_served_in_order() -> None:
    """RFC 7143 11.8: outstanding R2Ts of a task are fulfilled in the order of their arrival, those
    of other tasks when they come."""
    script = Script(InitialR2T="Yes", ImmediateData="No", MaxOutstandingR2T="4").log_in()
    payload = os.urandom(8192)
    script.write(bytes(8192))
    script.write(payload)
    first, second = script.take()
    script.send(
        *(
            script.r2t(second, n * 2048, 2048, r2t_sn=n, target_transfer_tag=n + 1)
            for n in range(4)
        ),
        script.r2t(first, 0, 8192),
    )
    data = script.take()
    assert [pdu.target_transfer_tag for pdu in data] == [1, 2, 3, 4, 0x51]
    assert data_of(data[:4]) == payload


def test_ffp_010_any_range_may_be_asked_for_again() -> None:
    """RFC 7143 4.2.5.2, 11.8: an R2T may ask in any order, and for what was sent already."""
    script = Script(MaxRecvDataSegmentLength="4096", FirstBurstLength="4096").log_in()
    payload = os.urandom(16384)
    write = script.write(payload)
    command, _ = split(script.take())
    for number, offset in enumerate((8192, 0, 4096, 0, 12288)):
        script.send(script.r2t(command, offset, 4096, r2t_sn=number))
        assert data_of(script.take()) == payload[offset : offset + 4096]
    script.send(script.response(command))
    assert write.done


@pytest.mark.parametrize(
    "defect",
    [
        {"desired_data_transfer_length": 0},
        {"desired_data_transfer_length": 262148},
        {"target_transfer_tag": RESERVED},
        {"buffer_offset": 8192, "desired_data_transfer_length": 1},
        {"buffer_offset": 0xFFFFFFFF, "desired_data_transfer_length": 512},
        {"desired_data_transfer_length": 8193},
        {"r2t_sn": 1},
        {"lun": LUN_5},
    ],
    ids=str,
)
@pytest.mark.quirk("Q-12")
def test_ffp_011_an_illegal_r2t_sends_nothing(defect: dict[str, Any]) -> None:
    """RFC 7143 11.8.4, 11.8.5, 7.7: what lies outside the command is never read; the session is
    recovered."""
    script = Script(InitialR2T="Yes", ImmediateData="No").log_in()
    write = script.write(bytes(8192))
    command = script.one(ScsiCommand)
    r2t = script.r2t(command, 0, 512)
    for name, value in defect.items():
        setattr(r2t, name, value)
    script.send(r2t)
    assert isinstance(script.ended().error, ProtocolError)
    assert script.raw() == b""
    assert not write.done


def test_ffp_011_an_r2t_for_a_read_is_illegal() -> None:
    script = Script().log_in()
    script.read(512)
    script.send(script.r2t(script.one(ScsiCommand), 0, 512))
    assert isinstance(script.ended().error, ProtocolError)


def test_tmo_004_r2ts_without_end_are_not_served_for_ever() -> None:
    """A target that asks for the same data again and again, and reads nothing, must not fill our
    memory."""
    script = Script(InitialR2T="Yes", ImmediateData="No").log_in()
    script.write(bytes(4096))
    command = script.one(ScsiCommand)
    for number in range(10_000):
        script.send(script.r2t(command, 0, 4096, r2t_sn=number))
        if script.lost:
            break
    assert isinstance(script.ended().error, ProtocolError)
    assert number < 200


def test_ffp_024_an_early_end_keeps_the_stream_in_step() -> None:
    """RFC 7143 11.4.2: a response may come while data is queued; a late R2T is ignored, the PDUs
    that were announced are sent whole, from memory that is no longer the caller's."""
    script = Script(InitialR2T="Yes", ImmediateData="No", MaxRecvDataSegmentLength="4096").log_in()
    payload = bytearray(os.urandom(65536))
    kept = bytes(payload)
    write = script.write(payload)
    command = script.one(ScsiCommand)
    script.send(script.r2t(command, 0, 65536))
    buffers = script.machine.data_to_send()
    head = b"".join(buffers)[:5000]
    script.machine.bytes_sent(5000)
    sense = bytes.fromhex("0012 700003000000000a000000001100000000000000".replace(" ", ""))
    script.send(script.response(command, status=2, data=sense))
    assert write.done
    assert write.task.status == 2
    payload[:] = b"\xee" * len(payload)  # the caller uses its buffer for something else
    script.send(script.r2t(command, 0, 4096, r2t_sn=1))
    assert isinstance(script.events[-1], Warned)
    following = script.read(0)
    pdus = script.decode(head + script.raw())
    assert data_of(pdus[:-1]) == kept
    script.send(script.response(pdus[-1]))
    assert following.done


def test_memory_is_only_copied_where_it_must_be() -> None:
    """What has left is not held on to: a write that completes after all of its data was sent costs
    no copy of what others have queued."""
    script = Script(InitialR2T="Yes", ImmediateData="No").log_in()
    pool = bytearray(32768)
    view = memoryview(pool)
    first = script.write(view[:16384])  # type: ignore[arg-type]
    second = script.write(view[16384:])  # type: ignore[arg-type]
    one, two = script.take()
    script.send(script.r2t(one, 0, 16384))
    script.take()
    script.send(script.r2t(two, 0, 16384), script.response(one))
    assert first.done
    assert not second.done
    queued = [each for each in script.machine.data_to_send() if isinstance(each, memoryview)]
    assert queued
    assert all(each.obj is pool for each in queued)


@pytest.mark.parametrize("header", ["None", "CRC32C"])
@pytest.mark.parametrize("data", ["None", "CRC32C"])
def test_digests_cover_every_pdu(header: str, data: str) -> None:
    """RFC 7143 11.2.3: with digests on, all PDUs of full feature phase carry them."""
    script = Script(
        Settings(header_digest=("CRC32C", "None"), data_digest=("CRC32C", "None")),
        HeaderDigest=header,
        DataDigest=data,
        MaxRecvDataSegmentLength="1024",
        FirstBurstLength="4096",
    ).log_in()
    payload = os.urandom(6001)
    write = script.write(payload)
    command, sent = split(script.take())
    script.send(script.r2t(command, 4096, 1905))
    assert command.data + data_of(sent) + data_of(script.take()) == payload
    script.send(script.response(command))
    assert write.done


def test_a_long_cdb_goes_into_an_ahs() -> None:
    """RFC 7143 11.2.2.3: more than 16 bytes of CDB continue in an Extended CDB AHS."""
    script = Script().log_in()
    script.read(512, cdb=bytes(range(32)))
    assert script.one(ScsiCommand).cdb == bytes(range(32))
