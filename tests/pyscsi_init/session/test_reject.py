# SPDX-License-Identifier: Apache-2.0
"""Rejected PDUs (RFC 7143 7.3, 11.17)."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import ConnectionLost, ProtocolError, TaskRejected
from pyscsi_init.pdu import LogoutRequest, NopOut, RejectReason, ScsiCommand, TaskManagementRequest
from pyscsi_init.session import Replay, TaskManagementFunction, Warned
from pyscsi_init.session.reject import MAX_REJECTS, RESEND_ALLOWED
from pyscsi_init.session.tasks import MAX_SILENCES
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import Script

SENSE = bytes.fromhex("70000b000000000a00000000470500000000")
FINAL_REASONS = [
    reason
    for reason in RejectReason
    if reason not in RESEND_ALLOWED and reason != RejectReason.WAITING_FOR_LOGOUT
]


@pytest.mark.parametrize("length", [20, 48, 60])
def test_rej_001_the_task_is_found_from_the_header(length: int) -> None:
    """RFC 7143 11.17.4: the data segment is the header of the bad PDU, perhaps more, perhaps
    less; the Reject takes a StatSN."""
    script = Script().log_in()
    bad, good = script.read(0), script.read(0)
    rejected, command = script.take()
    data = (rejected.encode() + b"vendor data!")[:length]
    script.send(script.reject(rejected, 4, data=data))
    assert isinstance(bad.error, TaskRejected)
    assert bad.error.reason == 4
    script.send(script.response(command))
    assert good.done
    assert good.error is None
    script.read(0)
    assert script.one(ScsiCommand).exp_stat_sn == script.stat_sn


def test_rej_001_without_a_header_nobody_knows_what_was_rejected() -> None:
    script = Script().log_in()
    script.read(0)
    script.send(script.reject(script.one(ScsiCommand), 4, data=b"\x01" * 19))
    assert isinstance(script.ended().error, ProtocolError)


def test_rej_002_a_gap_in_cmd_sn_is_closed_by_a_new_session() -> None:
    """RFC 7143 7.3, 4.2.2.1: the target does not count the rejected command, so nothing after it
    would pass. At level 0 a new session closes the gap."""
    script = Script().log_in()
    bad, good = script.read(0), script.read(0)
    rejected, _ = script.take()
    script.send(
        script.reject(rejected, 5, exp_cmd_sn=rejected.cmd_sn, max_cmd_sn=rejected.cmd_sn + 10)
    )
    assert isinstance(bad.error, TaskRejected)
    assert isinstance(script.ended().error, ConnectionLost)
    assert not good.done
    script.log_in()
    script.machine.resume(script.now)
    command = script.one(ScsiCommand)
    script.send(script.response(command))
    assert good.done
    assert good.error is None


def test_rej_003_a_rejected_data_out_does_not_end_its_command() -> None:
    """RFC 7143 7.3: its status comes all the same."""
    script = Script(InitialR2T="Yes", ImmediateData="No").log_in()
    write = script.write(bytes(512))
    command = script.one(ScsiCommand)
    script.send(script.r2t(command, 0, 512))
    data = script.take()[0]
    script.send(script.reject(data, 2))
    assert not write.done
    script.send(script.response(command, status=2, data=b"\0\x12" + SENSE))
    assert write.done
    assert write.task.sense == SENSE


@pytest.mark.parametrize("reason", sorted(RESEND_ALLOWED))
@pytest.mark.parametrize("counted", [True, False])
def test_rej_004_a_command_that_may_be_sent_again_is(reason: int, counted: bool) -> None:
    """RFC 7143 11.17.1: after a digest error, or out of resources, the command is sent again."""
    script = Script().log_in()
    write = script.write(b"p" * 512)
    command = script.one(ScsiCommand)
    exp = command.cmd_sn + counted
    script.send(script.reject(command, reason, exp_cmd_sn=exp, max_cmd_sn=exp + 9))
    assert not write.done
    if not counted:
        assert script.lost
        script.log_in()
        script.machine.resume(script.now)
    again = script.one(ScsiCommand)
    assert (again.data, again.cdb) == (command.data, command.cdb)
    if counted:
        assert again.initiator_task_tag != command.initiator_task_tag
        assert again.cmd_sn == command.cmd_sn + 1
    script.send(script.response(again))
    assert write.done
    assert write.error is None


def test_rej_004_but_not_for_ever() -> None:
    script = Script().log_in()
    write = script.write(bytes(512))
    for _ in range(MAX_SILENCES):
        assert not write.done
        script.send(script.reject(script.one(ScsiCommand), 2))
    assert isinstance(write.error, TaskRejected)
    assert script.take() == []
    assert not script.lost


def test_rej_004_nor_what_may_not_be_repeated() -> None:
    script = Script().log_in()
    write = script.write(bytes(512), replay=Replay.NEVER)
    script.send(script.reject(script.one(ScsiCommand), 2))
    assert isinstance(write.error, TaskRejected)


@pytest.mark.parametrize("reason", FINAL_REASONS)
def test_rej_004_other_reasons_are_final(reason: int) -> None:
    script = Script().log_in()
    read = script.read(0)
    script.send(script.reject(script.one(ScsiCommand), reason))
    assert isinstance(read.error, TaskRejected)
    assert script.take() == []


def test_rej_004_requests_that_are_no_commands() -> None:
    """A rejected task management request or ping has no answer."""
    script = Script(Settings(noop_interval=5)).log_in()
    reset = script.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
    script.send(script.reject(script.one(TaskManagementRequest), 6))
    assert isinstance(reset.error, TaskRejected)
    script.pass_time(5)
    script.send(script.reject(script.one(NopOut), 6))
    assert script.machine.tasks.requests == {}
    assert not script.lost


def test_a_rejected_time_out_abort_escalates() -> None:
    """The command has no status and cannot be aborted: only a new session is left."""
    script = Script(Settings(noop_interval=0)).log_in()
    read = script.read(512)
    script.take()
    script.pass_time(31)
    script.send(script.reject(script.one(TaskManagementRequest), 6))
    assert script.lost
    assert not read.done


def test_rej_006_waiting_for_logout() -> None:
    """RFC 7143 11.17.1: the target takes nothing more but a logout; the command goes to the next
    session, even one that may not be done twice: it was not done."""
    script = Script().log_in()
    read = script.read(0, replay=Replay.NEVER)
    script.send(script.reject(script.one(ScsiCommand), 12))
    logout = script.one(LogoutRequest)
    late = script.read(0)
    assert script.take() == []
    script.send(script.logged_out(logout))
    assert (script.ended().error, script.ended().again) == (None, True)
    assert not read.done
    script.log_in()
    script.machine.resume(script.now)
    script.send(*(script.response(command) for command in script.take()))
    assert (read.error, late.error) == (None, None)
    assert read.done


def test_rej_006_a_target_that_rejects_everything_is_left() -> None:
    script = Script().log_in()
    for _ in range(MAX_REJECTS + 1):
        assert not script.lost
        script.read(0)
        script.send(script.reject(script.one(ScsiCommand), 4))
    assert isinstance(script.ended().error, ProtocolError)


def test_a_reject_for_something_unknown_is_only_noted() -> None:
    script = Script().log_in()
    read = script.read(0)
    command = script.one(ScsiCommand)
    script.send(script.response(command), script.reject(command, 4))
    assert read.done
    assert isinstance(script.events[-1], Warned)
    script.send(script.reject(NopOut(immediate=True, initiator_task_tag=0x999), 4))
    assert isinstance(script.events[-1], Warned)
    assert not script.lost


def test_a_completion_may_end_the_session() -> None:
    """Whoever hears of the rejected task may drop the connection; the gap is then no matter."""
    script = Script().log_in()
    bad = script.read(0)
    original = bad.task.completion

    def drop(task: object) -> None:
        original(bad.task)
        script.machine.drop_connection("test", script.now)

    bad.task.completion = drop
    command = script.one(ScsiCommand)
    script.send(script.reject(command, 4, exp_cmd_sn=command.cmd_sn, max_cmd_sn=2000))
    assert bad.done
    assert script.lost
