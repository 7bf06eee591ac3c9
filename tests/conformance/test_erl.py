# SPDX-License-Identifier: Apache-2.0
"""Error recovery levels: retry, recovery R2T, reassignment (RFC 7143 7.1, 7.2, 7.8, 7.9)."""

from __future__ import annotations

import os

import pytest

from pyscsi_init.pdu import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    ScsiCommand,
    SnackRequest,
    SnackType,
)
from pyscsi_init.session import (
    ConnectionEnded,
    Replay,
    SessionState,
)
from tests.conformance.levels import (
    FIRST_STAT_SN,
    LUN_2,
    RESERVED,
    Command,
    Played,
)

DATA = os.urandom(4096)
SENSE = b"\0\x12" + bytes.fromhex("700003000000000a 00000000 1100 00000000")
CRC = {"DataDigest": "CRC32C"}
STATUS = FIRST_STAT_SN + 2
"""The first StatSN after a login of two rounds."""


# -- level 0 and format errors -----------------------------------------------------------------


@pytest.mark.conformance("ERL-001")
@pytest.mark.parametrize("fault", ["digest", "data", "status", "r2t", "reset"])
def test_level_0_answers_every_fault_with_session_recovery(fault: str) -> None:
    played = Played(0, DataDigest="CRC32C" if fault == "digest" else "None")
    read = played.submit(Command(4096))
    write = played.submit(Command(os.urandom(16384)))
    if fault == "digest":
        played.send(played.data_in(read, 0, 0, DATA[:512]), bad=True)
    elif fault == "data":
        played.send(played.data_in(read, 1, 512, DATA[:512]))
    elif fault == "status":
        played.send(played.response(read, stat_sn=played.stat_sn + 1))
    elif fault == "r2t":
        played.send(played.r2t(write, 1, 4096, 4096))
    else:
        played.cut()
    assert played.lost
    assert played.machine.state is SessionState.Q4_FAILED
    assert not played.machine.continuing
    assert len(played.machine.tasks.waiting) == 2
    assert played.machine.tasks.unknown_outcome == {LUN_2}
    played.log_in()
    assert played.login_requests[0].tsih == 0
    assert played.machine.held, "nothing but the barrier may pass"
    assert played.take() == []


@pytest.mark.conformance("ERL-002")
@pytest.mark.parametrize("level", [1, 2])
def test_a_fault_in_the_login_phase_only_closes_the_connection(level: int) -> None:
    played = Played(level)
    played.cut()
    played.machine.abandon(ConnectionError("not to be continued"))  # type: ignore[arg-type]
    played.full_feature = False
    played.machine.connect(played.now)
    played.one(LoginRequest)
    played.send(NopIn(stat_sn=77))
    assert played.lost
    assert played.take() == []
    assert not isinstance(played.events[-1], ConnectionEnded)


@pytest.mark.conformance("ERL-003")
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_format_error_ends_the_session_at_every_level(level: int) -> None:
    played = Played(level)
    read = Command(4096)
    played.submit(read)
    played.send(played.nop_in(initiator_task_tag=5, target_transfer_tag=6))
    assert played.lost
    assert not played.machine.continuing
    played.log_in()
    assert played.login_requests[0].tsih == 0
    assert played.machine.held


# -- level 1 -----------------------------------------------------------------------------------


@pytest.mark.conformance("ERL-004")
def test_data_in_with_a_bad_digest_is_asked_for_again() -> None:
    played = Played(1, **CRC)
    read = Command(4096)
    command = played.submit(read)
    pieces = played.pieces(command, DATA, 1024, status=True)
    pieces[2].data = bytes(1024)
    played.send(*pieces[:2])
    played.send(pieces[2], bad=True)
    snack = played.one(SnackRequest)
    assert (snack.type, snack.beg_run, snack.run_length) == (SnackType.DATA_R2T, 2, 1)
    played.send(pieces[3])
    assert not read.times
    pieces[2].data = DATA[2048:3072]
    played.send(pieces[2], bad=True)
    assert played.one(SnackRequest).beg_run == 2, "the repetition was damaged too"
    played.send(pieces[2])
    assert read.good
    assert read.buffer == DATA


@pytest.mark.conformance("ERL-004", "ERL-005")
def test_the_last_data_in_with_its_status_has_a_bad_digest() -> None:
    played = Played(1, **CRC)
    read, other = Command(4096), Command(512)
    command, second = played.submit(read), played.submit(other)
    pieces = played.pieces(command, DATA, 1024, status=True)
    played.send(*pieces[:3])
    played.send(pieces[3], bad=True)
    snack = played.one(SnackRequest)
    assert (snack.type, snack.beg_run, snack.run_length) == (SnackType.DATA_R2T, 3, 0)
    played.send(*played.pieces(second, DATA[:512], 512, status=True))
    assert played.take() == [], "its status comes with the data that was asked for"
    assert not other.times
    played.send(pieces[3])
    assert read.good
    assert other.good
    assert read.buffer == DATA


@pytest.mark.conformance("ERL-005")
def test_a_response_with_a_bad_digest_is_asked_for_again() -> None:
    played = Played(1, **CRC)
    read = Command(4096)
    command = played.submit(read)
    response = played.response(command, status=2, data=SENSE)
    played.send(response, bad=True)
    snack = played.one(SnackRequest)
    assert (snack.type, snack.beg_run, snack.run_length) == (SnackType.STATUS, STATUS, 1)
    assert snack.exp_stat_sn == STATUS
    played.send(response, bad=True)
    assert played.one(SnackRequest).beg_run == STATUS
    played.send(response)
    assert (read.times, read.task.status, len(read.task.sense)) == (1, 2, 18)
    played.send(response)
    assert read.times == 1


@pytest.mark.conformance("ERL-005")
def test_a_damaged_duplicate_asks_for_nothing() -> None:
    played = Played(1, **CRC)
    command = played.submit(read := Command(4096))
    response = played.response(command, status=2, data=SENSE)
    played.send(response)
    assert read.times == 1
    played.send(response, bad=True)
    assert played.take() == []


@pytest.mark.conformance("ERL-005")
def test_a_logout_is_not_held_up_by_what_is_missing() -> None:
    played = Played(1)
    command = played.submit(Command(DATA[:512]))
    played.machine.request_logout(played.now)
    played.response(command)
    played.pass_time(6.0)
    logout = next(each for each in played.take() if isinstance(each, LogoutRequest))
    fields = {"initiator_task_tag": logout.initiator_task_tag}
    played.send(played._make(LogoutResponse, True, fields))
    ended = played.events[-1]
    assert isinstance(ended, ConnectionEnded)
    assert (ended.error, ended.again) == (None, False)


@pytest.mark.conformance("ERL-006")
def test_exp_data_sn_shows_that_data_is_missing() -> None:
    played = Played(1)
    read = Command(4096)
    command = played.submit(read)
    pieces = played.pieces(command, DATA, 1024)
    played.send(*pieces[:3], played.response(command, exp_data_sn=4))
    snack = played.one(SnackRequest)
    assert (snack.type, snack.beg_run, snack.exp_stat_sn) == (SnackType.DATA_R2T, 3, STATUS)
    assert not read.times
    assert played.submit(Command(512)).exp_stat_sn == STATUS
    played.send(pieces[3])
    assert read.good
    assert read.buffer == DATA
    assert played.submit(Command(512)).exp_stat_sn == STATUS + 1


@pytest.mark.conformance("ERL-006", "SNK-002")
def test_a_missing_r2t_is_asked_for_and_they_are_answered_in_order() -> None:
    played = Played(1, ImmediateData="No", MaxOutstandingR2T="1")
    write = Command(os.urandom(8192))
    command = played.submit(write)
    first, second = played.r2t(command, 0, 0, 4096), played.r2t(command, 1, 4096, 4096)
    played.send(second)
    snack = played.one(SnackRequest)
    assert (snack.type, snack.initiator_task_tag) == (0, command.initiator_task_tag)
    assert (snack.beg_run, snack.run_length) == (0, 1)
    played.send(first)
    sent = played.take()
    assert [(each.target_transfer_tag, each.buffer_offset) for each in sent] == [
        (0x100, 0),
        (0x101, 4096),
    ]
    played.send(first)
    assert played.take() == [], "a duplicate"
    played.send(played.response(command))
    assert write.good


@pytest.mark.conformance("ERL-007")
def test_no_snack_for_an_r2t_that_is_merely_late() -> None:
    played = Played(1, ImmediateData="No")
    command = played.submit(Command(os.urandom(8192)))
    for _ in range(20):
        played.pass_time(1.0)
        played.send(played.nop_in())
        assert not any(isinstance(each, SnackRequest) for each in played.take())
    played.send(played.r2t(command, 0, 0, 8192))
    assert all(isinstance(each, DataOut) for each in played.take())


@pytest.mark.conformance("ERL-008")
@pytest.mark.parametrize("level", [0, 1])
def test_a_command_that_is_not_counted_is_retried_as_it_was(level: int) -> None:
    played = Played(level)
    first = Command(DATA[:2048], replay=Replay.NEVER)
    lost = played.submit(first)
    later = Command(512)
    played.submit(later)
    played.exp_cmd_sn = lost.cmd_sn  # the target does not count the first
    seen: list[ScsiCommand] = []
    for _ in range(12):
        played.pass_time(1.0)
        for pdu in played.take():
            if isinstance(pdu, NopOut) and pdu.initiator_task_tag != RESERVED:
                played.send(played.nop_in(initiator_task_tag=pdu.initiator_task_tag))
            elif isinstance(pdu, ScsiCommand):
                seen.append(pdu)
        if seen:
            break
        played.send(played.nop_in())
    if not level:
        assert seen == []
        return
    retry = seen[0]
    retry.exp_stat_sn = lost.exp_stat_sn
    assert retry.encode() == lost.encode()
    assert retry.data == lost.data
    played.exp_cmd_sn = lost.cmd_sn + 2
    played.send(played.response(lost))
    assert first.good
    played.pass_time(4.0)
    assert not any(isinstance(each, ScsiCommand) for each in played.take()), "no gap, no retry"


@pytest.mark.conformance("ERL-008", "ERL-009")
def test_a_command_rejected_for_its_immediate_data_is_sent_again_whole() -> None:
    played = Played(1, **CRC, InitialR2T="No", FirstBurstLength="8192")
    write = Command(os.urandom(8192), replay=Replay.NEVER)
    command = played.submit(write)
    played.take()
    played.exp_cmd_sn = command.cmd_sn
    played.send(played.reject(command, 2))
    again = played.take()
    assert [type(each) for each in again] == [ScsiCommand, DataOut]
    assert (again[0].cmd_sn, again[0].initiator_task_tag) == (
        command.cmd_sn,
        command.initiator_task_tag,
    )
    assert again[0].data + again[1].data == bytes(write.buffer)
    played.exp_cmd_sn = command.cmd_sn + 1
    played.send(played.response(command))
    assert write.good


@pytest.mark.conformance("ERL-009")
def test_a_recovery_r2t_is_answered_and_nothing_is_resent_unasked() -> None:
    played = Played(1, ImmediateData="No", MaxRecvDataSegmentLength="1024", **CRC)
    write = Command(os.urandom(4096))
    command = played.submit(write)
    played.send(played.r2t(command, 0, 0, 4096))
    sent = played.take()
    assert [each.data_sn for each in sent] == [0, 1, 2, 3]
    played.send(played.reject(sent[1], 2))
    assert played.take() == []
    played.pass_time(3.0)
    assert not any(isinstance(each, DataOut) for each in played.take())
    played.send(played.r2t(command, 1, 1024, 1024, target_transfer_tag=0x77))
    again = played.one(DataOut)
    assert (again.target_transfer_tag, again.data_sn, again.final) == (0x77, 0, True)
    assert (again.buffer_offset, again.data) == (1024, bytes(write.buffer[1024:2048]))
    played.send(played.response(command))
    assert write.good
