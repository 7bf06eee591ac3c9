# SPDX-License-Identifier: Apache-2.0
"""Error recovery levels: retry, recovery R2T, reassignment (RFC 7143 7.1, 7.2, 7.8, 7.9)."""

from __future__ import annotations

import os

import pytest

from pyscsi_init.connection import ConnectionState
from pyscsi_init.errors import OutcomeUnknown
from pyscsi_init.pdu import (
    AsyncMessage,
    DataOut,
    LoginRequest,
    NopIn,
    NopOut,
    ScsiCommand,
    SnackRequest,
    SnackType,
    TaskManagementRequest,
)
from pyscsi_init.session import (
    ConnectionEnded,
    Continued,
    LoggedIn,
    ManagementTask,
    Replay,
    SessionState,
    TaskManagementFunction,
    TaskState,
    TextTask,
)
from tests.conformance.levels import (
    FIRST_CMD_SN,
    FIRST_STAT_SN,
    LUN_2,
    RESERVED,
    TSIH,
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


# -- level 2 -----------------------------------------------------------------------------------


def reassigned(played: Played) -> list[TaskManagementRequest]:
    """The TASK REASSIGN requests that were sent, and nothing else."""
    found = played.take()
    assert all(isinstance(each, TaskManagementRequest) for each in found), found
    assert {each.function for each in found} <= {8}
    return found


@pytest.mark.conformance("ERL-010", "ERL-011")
def test_a_read_goes_on_over_another_connection() -> None:
    played = Played(2)
    read = Command(4096)
    command = played.submit(read)
    pieces = played.pieces(command, DATA, 1024, status=True)
    played.send(*pieces[:2])
    ended = played.cut()
    assert (ended.wait, ended.again) == (2.0, True)
    assert played.machine.state is SessionState.Q4_FAILED
    assert played.machine.continuation is not None
    dead = played.machine.continuation.connection
    assert dead.state is ConnectionState.S8_CLEANUP_WAIT
    assert read.task.state is TaskState.SENT
    played.pass_time(2.0)
    played.log_in(exp_cmd_sn=command.cmd_sn + 1, stat_sn=9000)
    login = played.login_requests[0]
    assert (login.tsih, login.cid, login.isid) == (TSIH, 0, played.machine.isid)
    assert (login.exp_stat_sn, login.cmd_sn) == (STATUS, command.cmd_sn + 1)
    assert dead.state is ConnectionState.S1_FREE
    assert played.machine.state is SessionState.Q3_LOGGED_IN
    assert not played.machine.held
    (request,) = reassigned(played)
    assert request.immediate
    assert request.referenced_task_tag == command.initiator_task_tag
    assert (request.exp_data_sn, request.ref_cmd_sn, request.lun) == (2, 0, bytes(8))
    played.send(played.managed(request, 0))
    played.send(*played.pieces(command, DATA, 1024, status=True)[2:])
    assert read.good
    assert read.buffer == DATA


@pytest.mark.conformance("ERL-011")
@pytest.mark.parametrize("size", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("first", [0, 2])
def test_a_target_goes_on_or_begins_again(first: int, size: int) -> None:
    played = Played(2)
    read = Command(4096)
    command = played.submit(read)
    played.send(*played.pieces(command, b"\xee" * 4096, 1024)[:2])
    read.buffer[:2048] = DATA[:2048] if first else b"\xee" * 2048
    played.cut()
    played.log_in(exp_cmd_sn=command.cmd_sn + 1, stat_sn=1)
    (request,) = reassigned(played)
    played.send(played.managed(request, 0))
    offset = 2048 if first else 0
    pieces = played.pieces(command, DATA[offset:], min(size, 4096 - offset), first=first)
    for piece in pieces:
        piece.buffer_offset += offset
    played.send(*pieces, played.response(command, exp_data_sn=first + len(pieces)))
    assert read.good
    assert read.buffer == DATA
    assert not any(isinstance(each, SnackRequest) for each in played.take())


@pytest.mark.conformance("ERL-010")
def test_what_never_arrived_is_sent_again_with_the_same_number() -> None:
    played = Played(2)
    commands = [Command(DATA[:1024], replay=Replay.NEVER) for _ in range(4)]
    sent = [played.submit(each) for each in commands]
    played.cut()
    played.log_in(exp_cmd_sn=sent[2].cmd_sn)
    found = played.take()
    requests, again = found[:2], found[2:]
    assert [each.referenced_task_tag for each in requests] == [
        each.initiator_task_tag for each in sent[:2]
    ]
    for retry, original in zip(again, sent[2:], strict=True):
        retry.exp_stat_sn = original.exp_stat_sn
        assert retry.encode() == original.encode()
    continued = [event for event in played.events if isinstance(event, Continued)]
    assert continued == [Continued(2, 2)]
    played.exp_cmd_sn = sent[3].cmd_sn + 1
    played.send(*(played.managed(each, 0) for each in requests))
    played.send(*(played.response(each) for each in sent))
    assert all(each.good for each in commands)
    assert played.submit(Command(512)).cmd_sn == sent[3].cmd_sn + 1


@pytest.mark.conformance("ERL-011", "ERL-009")
def test_a_write_goes_on_with_the_r2t_that_the_target_sends() -> None:
    played = Played(2, ImmediateData="No")
    write = Command(os.urandom(8192))
    command = played.submit(write)
    played.send(played.r2t(command, 0, 0, 4096))
    played.take()
    played.cut()
    played.log_in(exp_cmd_sn=command.cmd_sn + 1)
    (request,) = reassigned(played)
    assert request.exp_data_sn == 0
    played.send(played.managed(request, 0), played.r2t(command, 0, 0, 4096))
    assert played.one(DataOut).data == bytes(write.buffer[:4096])
    played.send(played.r2t(command, 1, 4096, 4096))
    assert played.one(DataOut).data == bytes(write.buffer[4096:])
    played.send(played.response(command))
    assert write.good


@pytest.mark.conformance("ERL-012")
@pytest.mark.parametrize("response", [1, 3, 4, 5, 6])
def test_a_refusal_falls_back_to_session_recovery(response: int) -> None:
    played = Played(2)
    commands = [Command(DATA[:512]) for _ in range(3)]
    sent = [played.submit(each) for each in commands]
    played.cut()
    played.log_in(exp_cmd_sn=sent[2].cmd_sn + 1)
    requests = reassigned(played)
    played.send(played.managed(requests[0], 0))
    played.send(played.managed(requests[1], response))
    assert played.lost
    assert not played.machine.continuing
    assert [each.task.state for each in commands] == [TaskState.SUSPENDED] * 3
    assert played.machine.tasks.unknown_outcome == {LUN_2}
    played.log_in()
    assert played.login_requests[0].tsih == 0
    assert played.machine.held, "the barrier comes first"
    assert played.take() == []


@pytest.mark.conformance("ERL-012")
@pytest.mark.parametrize("follows", [True, False])
def test_function_rejected_is_believed_when_nothing_follows(follows: bool) -> None:
    """A target exists that says 255 for success."""
    played = Played(2)
    command = played.submit(write := Command(DATA[:512]))
    played.cut()
    played.log_in(exp_cmd_sn=command.cmd_sn + 1)
    (request,) = reassigned(played)
    played.send(played.managed(request, 255))
    assert not played.lost
    if follows:
        played.send(played.response(command))
        assert write.good
    played.pass_time(4.0)
    assert not played.lost
    played.pass_time(4.0)
    assert played.lost is not follows


@pytest.mark.conformance("ERL-013")
def test_the_time_to_retain_runs_out() -> None:
    played = Played(2)
    commands = [Command(DATA[:512]), Command(DATA[:512], replay=Replay.NEVER)]
    for each in commands:
        played.submit(each)
    assert played.cut().wait == 2.0
    played.pass_time(21.9)
    assert played.machine.continuing
    assert [each.times for each in commands] == [0, 0]
    played.pass_time(0.2)
    assert not played.machine.continuing
    assert commands[0].task.state is TaskState.SUSPENDED
    assert isinstance(commands[1].error, OutcomeUnknown)
    played.pass_time(3.0)
    played.log_in()
    assert played.login_requests[0].tsih == 0
    assert played.machine.held


@pytest.mark.conformance("ERL-013")
@pytest.mark.parametrize(("retain", "continues"), [(0, False), (7, True)])
def test_an_asynchronous_message_sets_the_times(retain: int, continues: bool) -> None:
    played = Played(2)
    played.submit(Command(DATA[:512]))
    fields = {"async_event": 2, "parameter1": 0, "parameter2": 5, "parameter3": retain}
    played.send(played._make(AsyncMessage, True, fields))
    ended = played.events[-1]
    assert isinstance(ended, ConnectionEnded)
    assert ended.wait == 5.0
    assert played.machine.continuing is continues
    played.pass_time(11.9)
    assert played.machine.continuing is continues
    played.pass_time(0.2)
    assert not played.machine.continuing


@pytest.mark.conformance("ERL-014")
def test_requests_do_not_survive_and_their_gaps_are_plugged() -> None:
    played = Played(2)
    read = Command(512)
    command = played.submit(read)
    errors: list[object] = []
    text = TextTask([("X-com.example.key", "1")], lambda task: errors.append(task.error))
    played.machine.request_text(text, played.now)
    reset = ManagementTask(
        TaskManagementFunction.ABORT_TASK_SET, LUN_2, lambda task: errors.append(task.error)
    )
    played.machine.manage(reset, played.now)
    played.take()
    cancelled = Command(512)
    played.submit(cancelled)
    played.machine.abort_task(cancelled.task, played.now)
    played.take()
    played.cut()
    assert len(errors) == 2
    assert None not in errors
    assert cancelled.times == 1
    played.log_in(exp_cmd_sn=command.cmd_sn + 1)
    request, *plugs = played.take()
    assert request.referenced_task_tag == command.initiator_task_tag
    assert [(type(each), each.cmd_sn, each.immediate) for each in plugs] == [
        (NopOut, FIRST_CMD_SN + 1, False),
        (NopOut, FIRST_CMD_SN + 2, False),
    ]


@pytest.mark.conformance("ERL-014")
def test_a_write_that_was_cancelled_needs_the_barrier() -> None:
    for when in ("before", "after"):
        played = Played(2)
        other = Command(512)
        played.submit(other)
        write = Command(DATA[:512])
        played.submit(write)
        if when == "before":
            played.machine.abort_task(write.task, played.now)
            played.cut()
        else:
            played.cut()
            assert played.machine.continuing
            played.machine.abort_task(write.task, played.now)
        assert write.times == 1
        assert not played.machine.continuing
        assert played.machine.tasks.unknown_outcome == {LUN_2}
        assert other.task.state is TaskState.SUSPENDED


@pytest.mark.conformance("ERL-015")
@pytest.mark.parametrize("level", [0, 1])
def test_nothing_is_reassigned_below_level_2(level: int) -> None:
    played = Played(level, offered=2)
    assert played.machine.parameters.error_recovery_level == level
    played.submit(Command(DATA[:512]))
    played.cut()
    assert not played.machine.continuing
    played.log_in()
    assert played.login_requests[0].tsih == 0
    assert [event.again for event in played.events if isinstance(event, LoggedIn)] == [False, True]


@pytest.mark.conformance("ERL-010")
def test_a_second_loss_on_the_way_back_changes_nothing() -> None:
    played = Played(2)
    read = Command(4096)
    command = played.submit(read)
    pieces = played.pieces(command, DATA, 1024, status=True)
    played.send(*pieces[:1])
    for _ in range(3):
        played.cut()
        played.log_in(exp_cmd_sn=command.cmd_sn + 1)
        assert reassigned(played)[0].exp_data_sn == 1
    played.cut()
    played.log_in(exp_cmd_sn=command.cmd_sn + 1)
    (request,) = reassigned(played)
    played.send(played.managed(request, 0))
    played.send(*played.pieces(command, DATA, 1024, status=True)[1:])
    assert read.good
    assert read.buffer == DATA
