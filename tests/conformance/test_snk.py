# SPDX-License-Identifier: Apache-2.0
"""SNACK (RFC 7143 11.16): what is missing on a connection is asked for again, and nothing else."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pyscsi_init.pdu import NopOut, ScsiCommand, SnackRequest, SnackType, TextRequest, TextResponse
from pyscsi_init.session import TextTask
from tests.conformance.levels import FIRST_STAT_SN, LUN_2, RESERVED, Command, Played

SENSE = b"\0\x12" + bytes.fromhex("70000300000000 0a 00000000 1100 00000000")
CRC = {"DataDigest": "CRC32C"}
DATA = os.urandom(8 * 512)
STATUS = FIRST_STAT_SN + 2
"""The first StatSN after a login of two rounds."""


def snacks(played: Played) -> list[tuple[int, int, int, int]]:
    """The SNACKs that were sent, and nothing but SNACKs: type, tag, BegRun, RunLength."""
    found = played.take()
    assert all(isinstance(each, SnackRequest) for each in found), found
    return [(each.type, each.initiator_task_tag, each.beg_run, each.run_length) for each in found]


@pytest.mark.conformance("SNK-001", "ERL-015")
@pytest.mark.parametrize("offered", [0, 2])
def test_no_snack_at_level_0(offered: int) -> None:
    """Whatever was offered: the level that was negotiated counts."""
    for fault in ("data", "status", "nop"):
        played = Played(0, offered=offered)
        read = Command(4096)
        command = played.submit(read)
        if fault == "data":
            played.send(played.data_in(command, 1, 512, DATA[:512]))
        elif fault == "status":
            played.send(played.response(command, stat_sn=played.stat_sn + 1))
        else:
            played.send(played.nop_in(stat_sn=played.stat_sn + 1))
        assert played.lost
        assert played.take() == []


@pytest.mark.conformance("SNK-001", "SNK-002")
def test_golden_header_of_a_data_snack() -> None:
    played = Played(1)
    command = played.submit(Command(4096))
    pieces = played.pieces(command, DATA, 512, status=True)
    played.send(*pieces[:3], pieces[5])
    sent = played.one(SnackRequest)
    assert sent.encode().hex(" ", 4) == (
        "10800000 00000000 00000000 00000000 "
        f"{command.initiator_task_tag:08x} ffffffff 00000000 {STATUS:08x} "
        "00000000 00000000 00000003 00000002"
    )


@pytest.mark.conformance("SNK-002", "ERL-006")
@pytest.mark.parametrize("order", [(3, 4), (4, 3)])
def test_missing_data_is_asked_for_and_placed(order: tuple[int, ...]) -> None:
    played = Played(1)
    read = Command(4096)
    command = played.submit(read)
    pieces = played.pieces(command, DATA, 512, status=True)
    played.send(*pieces[:3], *pieces[5:])
    assert snacks(played) == [(SnackType.DATA_R2T, command.initiator_task_tag, 3, 2)]
    assert not read.times
    assert played.machine.connection is not None
    assert played.machine.connection.exp_stat_sn == STATUS, "not acknowledged before it is whole"
    for index in order:
        played.send(pieces[index])
    assert read.good
    assert read.buffer == DATA
    assert played.machine.connection.exp_stat_sn == STATUS + 1
    assert played.take() == []
    assert played.machine.fast.connection is not None, "all is well again"


@pytest.mark.conformance("SNK-002")
def test_two_holes_are_two_runs() -> None:
    played = Played(1)
    command = played.submit(read := Command(4096))
    pieces = played.pieces(command, DATA, 512, status=True)
    played.send(pieces[0], pieces[2], pieces[5])
    tag = command.initiator_task_tag
    assert snacks(played) == [(0, tag, 1, 1), (0, tag, 3, 2)]
    played.send(pieces[6], pieces[7])
    assert snacks(played) == [], "nothing is asked for twice"
    played.send(pieces[1], pieces[3], pieces[4])
    assert read.good
    assert read.buffer == DATA


@pytest.mark.conformance("SNK-003", "ERL-006")
def test_missing_status_is_asked_for_and_not_acknowledged() -> None:
    played = Played(1)
    reads = [Command(512) for _ in range(3)]
    commands = [played.submit(read) for read in reads]
    whole = [played.pieces(each, DATA[:512], 512) for each in commands]
    played.send(*(pieces[0] for pieces in whole))
    first, second, third = [played.response(each, exp_data_sn=1) for each in commands]
    played.send(second)
    assert snacks(played) == [(SnackType.STATUS, RESERVED, STATUS, 1)]
    played.send(third)
    assert snacks(played) == []
    assert [read.times for read in reads] == [0, 0, 0]
    assert played.submit(Command(512)).exp_stat_sn == STATUS
    played.send(first)
    assert all(read.good for read in reads)
    assert played.submit(Command(512)).exp_stat_sn == STATUS + 3


@pytest.mark.conformance("SNK-003")
def test_a_nop_in_shows_that_a_status_is_missing() -> None:
    played = Played(1)
    write = Command(DATA[:512])
    command = played.submit(write)
    lost = played.response(command)
    played.send(played.nop_in())
    assert snacks(played) == [(SnackType.STATUS, RESERVED, STATUS, 1)]
    played.send(lost)
    assert write.good


@pytest.mark.conformance("SNK-003")
def test_the_answer_to_our_ping_shows_that_a_status_is_missing() -> None:
    """The target has nothing else to say: silence leads to a ping."""
    played = Played(1)
    command = played.submit(write := Command(DATA[:512]))
    lost = played.response(command)
    played.pass_time(5.0)
    ping = played.one(NopOut)
    played.send(played.nop_in(initiator_task_tag=ping.initiator_task_tag))
    assert snacks(played) == [(SnackType.STATUS, RESERVED, STATUS, 1)]
    played.send(lost)
    assert write.good


@pytest.mark.conformance("SNK-003")
def test_what_does_not_come_is_asked_for_again_a_few_times() -> None:
    played = Played(1)
    command = played.submit(Command(DATA[:512]))
    played.response(command)
    played.send(played.nop_in())
    asked = 0
    for _ in range(60):
        asked += sum(isinstance(each, SnackRequest) for each in played.take())
        if played.lost:
            break
        played.pass_time(1.0)
        if not played.lost:
            played.send(played.nop_in())
    assert played.lost
    assert asked == 5


@pytest.mark.conformance("SNK-004")
@pytest.mark.parametrize("level", [0, 1])
def test_data_is_acknowledged_where_the_target_wants_it(level: int) -> None:
    played = Played(level)
    command = played.submit(read := Command(4096))
    pieces = played.pieces(command, DATA, 512, status=True)
    pieces[3].acknowledge = True
    pieces[3].target_transfer_tag = 7
    pieces[3].lun = LUN_2
    played.send(*pieces[:4])
    if level:
        ack = played.one(SnackRequest)
        assert (ack.type, ack.initiator_task_tag, ack.target_transfer_tag, ack.lun) == (
            SnackType.DATA_ACK,
            RESERVED,
            7,
            LUN_2,
        )
        assert (ack.beg_run, ack.run_length, ack.exp_stat_sn) == (4, 0, STATUS)
    played.send(*pieces[4:])
    assert played.take() == []
    assert read.good


@pytest.mark.conformance("SNK-004")
def test_an_acknowledgement_waits_for_the_hole_before_it() -> None:
    played = Played(1)
    command = played.submit(read := Command(4096))
    pieces = played.pieces(command, DATA, 512, status=True)
    pieces[3].acknowledge = True
    pieces[3].target_transfer_tag = 7
    played.send(pieces[0], pieces[1], pieces[3])
    assert snacks(played) == [(SnackType.DATA_R2T, command.initiator_task_tag, 2, 1)]
    played.send(pieces[2])
    assert snacks(played) == [(SnackType.DATA_ACK, RESERVED, 4, 0)]
    played.send(*pieces[4:])
    assert read.good


@pytest.mark.conformance("SNK-004")
def test_no_acknowledgement_where_the_status_says_it_at_once() -> None:
    played = Played(1)
    command = played.submit(read := Command(512))
    piece = played.pieces(command, DATA[:512], 512, status=True)[0]
    piece.acknowledge = True
    piece.target_transfer_tag = 7
    played.send(piece)
    assert read.good
    assert played.take() == []


def shrink(played: Played) -> None:
    """A new MaxRecvDataSegmentLength, declared in full feature phase."""
    task = TextTask([("MaxRecvDataSegmentLength", "1024")], lambda _: None)
    played.machine.request_text(task, played.now)
    request = played.one(TextRequest)
    played.exp_cmd_sn += 1
    fields: dict[str, Any] = {"initiator_task_tag": request.initiator_task_tag, "final": True}
    played.send(played._make(TextResponse, True, fields))


@pytest.mark.conformance("SNK-005")
def test_resegmented_data_after_a_new_length() -> None:
    played = Played(1)
    command = played.submit(read := Command(4096))
    old = played.pieces(command, DATA, 2048)
    played.send(old[0])
    shrink(played)
    assert played.machine.parameters.max_recv_data_segment_length == 1024
    early = played.response(command, exp_data_sn=2)
    played.send(early)
    first = played.one(SnackRequest)
    assert (first.type, first.initiator_task_tag) == (SnackType.R_DATA, command.initiator_task_tag)
    assert (first.beg_run, first.run_length) == (0, 0)
    assert first.target_transfer_tag not in (0, RESERVED)
    new = played.pieces(command, DATA, 1024)
    played.send(*new[:1], *new[2:])  # one is lost again
    same = {"stat_sn": early.stat_sn, "exp_data_sn": 4}
    played.send(played.response(command, **same, snack_tag=first.target_transfer_tag))
    second = played.one(SnackRequest)
    assert second.type == SnackType.R_DATA
    assert second.target_transfer_tag not in (0, RESERVED, first.target_transfer_tag)
    played.send(*new)
    played.send(played.response(command, **same, snack_tag=first.target_transfer_tag))
    assert not read.times, "a response with the old tag does not count"
    played.send(played.response(command, **same, snack_tag=second.target_transfer_tag))
    assert read.good
    assert read.buffer == DATA


@pytest.mark.conformance("SNK-006")
def test_duplicates_are_discarded() -> None:
    played = Played(1)
    command = played.submit(read := Command(4096))
    pieces = played.pieces(command, DATA, 512, status=True)
    pieces[3].acknowledge = True
    played.send(*pieces[:4])
    assert snacks(played) == [(SnackType.DATA_ACK, RESERVED, 4, 0)]
    wrong = [played.data_in(command, index, 512 * index, b"\xee" * 512) for index in range(3)]
    played.send(*wrong, *pieces[4:], pieces[7])
    assert read.good
    assert read.buffer == DATA
    assert played.take() == []


@pytest.mark.conformance("SNK-007")
def test_a_snack_is_rejected_before_the_status() -> None:
    played = Played(1)
    command = played.submit(read := Command(4096))
    pieces = played.pieces(command, DATA, 512)
    played.send(pieces[0], pieces[2])
    snack = played.one(SnackRequest)
    played.send(played.reject(snack, 3))
    assert not read.times
    sense = b"\0\x12" + bytes.fromhex("70000b000000000a 00000000 1113 00000000")
    played.send(played.response(command, status=2, data=sense))
    assert (read.times, read.task.status, read.task.sense[12:14]) == (1, 2, b"\x11\x13")


@pytest.mark.conformance("SNK-007", "ERL-004")
def test_a_snack_is_rejected_after_the_status() -> None:
    played = Played(1)
    command = played.submit(read := Command(4096))
    pieces = played.pieces(command, DATA, 512, status=True)
    played.send(pieces[0], *pieces[2:])
    snack = played.one(SnackRequest)
    assert not read.times
    played.send(played.reject(snack, 3))
    assert (read.times, read.task.status, read.task.sense[2], read.task.sense[12:14]) == (
        1,
        2,
        0x0B,
        b"\x47\x05",
    )
    again = played.submit(Command(4096))
    assert isinstance(again, ScsiCommand)
    assert again.cmd_sn == command.cmd_sn + 1
    assert again.initiator_task_tag != command.initiator_task_tag
    assert again.exp_stat_sn == STATUS + 2


@pytest.mark.conformance("SNK-007")
def test_a_status_that_cannot_be_had_ends_the_connection() -> None:
    played = Played(1)
    command = played.submit(Command(DATA[:512]))
    played.response(command)
    played.send(played.nop_in())
    snack = played.one(SnackRequest)
    played.send(played.reject(snack, 4))
    assert played.lost
