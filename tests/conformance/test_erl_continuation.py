# SPDX-License-Identifier: Apache-2.0
"""Error recovery level 2: the session outlives its connection (RFC 7143 6.3.4, 7.1.4.3, 7.2.2)."""

from __future__ import annotations

import os

import pytest

from pyscsi_init.connection import ConnectionState
from pyscsi_init.errors import OutcomeUnknown
from pyscsi_init.pdu import (
    AsyncMessage,
    DataOut,
    NopOut,
    SnackRequest,
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
    TSIH,
    Command,
    Played,
)

DATA = os.urandom(4096)
SENSE = b"\0\x12" + bytes.fromhex("700003000000000a 00000000 1100 00000000")
CRC = {"DataDigest": "CRC32C"}
STATUS = FIRST_STAT_SN + 2
"""The first StatSN after a login of two rounds."""


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
