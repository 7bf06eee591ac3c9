# SPDX-License-Identifier: Apache-2.0
"""Pings both ways, and the logout (RFC 7143 11.14, 11.15, 11.18, 11.19)."""

from __future__ import annotations

from typing import Any

import pytest

from pyscsi_init.errors import ConnectionLost, ProtocolError, SessionFailed
from pyscsi_init.pdu import LogoutRequest, NopOut, ScsiCommand, TaskManagementRequest, TextRequest
from pyscsi_init.session import (
    SessionState,
    TaskManagementFunction,
    Warned,
)
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import LUN, LUN_5, RESERVED, Script

QUIET = Settings(noop_interval=0, logout_timeout=5)


@pytest.mark.parametrize("tag", [0, 1, 0x80000000])
@pytest.mark.parametrize("lun", [LUN, LUN_5])
def test_nop_001_a_ping_is_answered(tag: int, lun: bytes) -> None:
    """RFC 7143 11.18: Target Transfer Tag and LUN copied, immediate, no tag of ours."""
    script = Script(window=1).log_in()
    script.write(bytes(512))
    script.take()
    script.send(script.nop_in(target_transfer_tag=tag, lun=lun))
    answer = script.one(NopOut)
    assert answer.immediate
    assert (answer.target_transfer_tag, bytes(answer.lun)) == (tag, lun)
    assert answer.initiator_task_tag == RESERVED
    assert answer.cmd_sn == 1001


def test_nop_002_information_is_not_answered() -> None:
    """RFC 7143 11.18: no NOP-Out for a NOP-In without a Target Transfer Tag."""
    script = Script().log_in()
    script.send(script.nop_in(exp_cmd_sn=1000, max_cmd_sn=1200))
    assert script.take() == []
    assert script.machine.window.max_cmd_sn == 1200


def test_nop_003_our_ping() -> None:
    """RFC 7143 11.18.3, 11.19: a valid tag of ours, the reserved one of the target's; the answer is
    matched by it."""
    script = Script(Settings(noop_interval=5, noop_timeout=5)).log_in()
    script.pass_time(5)
    ping = script.one(NopOut)
    assert ping.immediate
    assert ping.initiator_task_tag != RESERVED
    assert ping.target_transfer_tag == RESERVED
    script.pass_time(4)
    script.send(script.nop_in(initiator_task_tag=ping.initiator_task_tag, data=b"echo"))
    assert script.take() == []
    assert script.machine.tasks.requests == {}
    script.pass_time(4.5)
    assert script.take() == []
    script.pass_time(1)
    assert script.one(NopOut).exp_stat_sn == script.stat_sn


def test_nop_004_silence_is_noticed_in_time() -> None:
    """RFC 7143 7.14: interval plus time-out after the last byte the connection is given up."""
    script = Script(Settings(noop_interval=5, noop_timeout=5)).log_in()
    script.pass_time(9.9)
    assert not script.lost
    script.pass_time(0.2)
    assert isinstance(script.ended().error, ConnectionLost)


def test_nop_004_any_byte_is_a_sign_of_life() -> None:
    """A large Data-In may take its time; what counts is that something comes."""
    script = Script(Settings(noop_interval=5, noop_timeout=5)).log_in()
    script.read(8192, timeout=3600)
    command = script.one(ScsiCommand)
    for byte in script.data_in(command, 0, bytes(8192)).encode():
        script.feed(bytes([byte]))
        script.pass_time(4)
    assert script.take() == []
    assert not script.lost


@pytest.mark.quirk("Q-31")
def test_nop_004_can_be_switched_off() -> None:
    script = Script(Settings(noop_interval=0)).log_in()
    script.pass_time(100_000)
    assert script.take() == []
    assert not script.lost


def test_nop_004_no_pings_in_a_discovery_session() -> None:
    """RFC 7143 4.3: text and logout are all that is sent there."""
    script = Script(Settings(noop_interval=5), discovery=True).log_in()
    script.pass_time(1000)
    assert script.take() == []
    assert not script.lost


def test_pings_without_answer_are_not_collected() -> None:
    """A target that never answers pings but talks in between must not fill our memory."""
    script = Script(Settings(noop_interval=5, noop_timeout=5)).log_in()
    for _ in range(50):
        script.pass_time(5)
        assert isinstance(script.one(NopOut), NopOut)
        script.send(script.nop_in())
    assert len(script.machine.tasks.requests) == 1


@pytest.mark.parametrize("case", ["both tags", "data", "tag of another request"])
def test_nop_006_format_errors_end_the_connection(case: str) -> None:
    """RFC 7143 7.7, 11.19."""
    script = Script().log_in()
    if case == "both tags":
        nop = script.nop_in(initiator_task_tag=1, target_transfer_tag=2)
    elif case == "data":
        nop = script.nop_in(target_transfer_tag=2, data=b"x")
    else:
        script.manage(TaskManagementFunction.CLEAR_ACA)
        tag = script.one(TaskManagementRequest).initiator_task_tag
        nop = script.nop_in(initiator_task_tag=tag)
    script.send(nop)
    assert isinstance(script.ended().error, ProtocolError)


def test_tmo_004_pings_of_a_target_that_does_not_read() -> None:
    """Its answers would pile up for ever."""
    script = Script().log_in()
    for number in range(5000):
        script.send(script.nop_in(target_transfer_tag=number))
        if script.lost:
            break
    assert isinstance(script.ended().error, ProtocolError)
    assert number < 2000


def test_a_flood_of_pings_that_is_read_is_served() -> None:
    script = Script().log_in()
    for number in range(3000):
        script.send(script.nop_in(target_transfer_tag=number))
        assert script.one(NopOut).target_transfer_tag == number
    assert not script.lost


def test_lgo_001_what_is_in_flight_comes_first_and_nothing_follows() -> None:
    """RFC 7143 11.14: one Logout Request, immediate, reason "close the session"; no PDU after
    it."""
    script = Script(QUIET, window=5, InitialR2T="Yes", ImmediateData="No").log_in()
    running = [script.write(bytes(512)) for _ in range(5)]
    queued = [script.read(0) for _ in range(3)]
    commands = script.take()
    assert len(commands) == 5
    script.machine.request_logout(script.now)
    assert all(isinstance(read.error, SessionFailed) for read in queued)
    assert script.take() == []
    for command in commands[:3]:
        script.send(script.r2t(command, 0, 512))
        script.take()
        script.send(script.response(command))
    late = script.read(0)
    assert isinstance(late.error, SessionFailed)
    script.pass_time(5)
    logout = script.one(LogoutRequest)
    assert logout.immediate
    assert (logout.reason, len(logout.data)) == (0, 0)
    assert logout.initiator_task_tag not in {c.initiator_task_tag for c in commands}
    script.send(
        script.r2t(commands[3], 0, 512),
        script.nop_in(target_transfer_tag=4),
        script.async_message(1, parameter3=3),
        script.async_message(4, parameter3=3),
    )
    script.machine.abort_task(running[3].task, script.now)
    assert script.take() == []
    script.send(script.logged_out(logout))
    assert script.lost
    assert (script.ended().error, script.ended().again) == (None, False)
    assert [write.done for write in running] == [True] * 5
    assert script.machine.state is SessionState.Q1_FREE
    assert script.machine.next_deadline() is None


def test_lgo_001_a_text_exchange_does_not_go_on_after_the_logout() -> None:
    script = Script(QUIET).log_in()
    ask = script.ask([])
    request = script.one(TextRequest)
    script.machine.request_logout(script.now)
    script.one(LogoutRequest)
    script.send(script.text(request, [("X-a", "b")], final=False, target_transfer_tag=5))
    assert script.take() == []
    script.machine.receive_eof(script.now)
    assert ask.done


def test_lgo_002_no_answer_to_the_logout() -> None:
    """RFC 7143 8.1.2: T17, bounded."""
    script = Script(QUIET).log_in()
    read = script.read(0)
    script.take()
    script.machine.request_logout(script.now)
    script.pass_time(5)
    assert isinstance(script.one(LogoutRequest), LogoutRequest)
    assert not script.lost
    script.pass_time(5)
    assert script.lost
    assert not script.ended().again
    assert read.done
    assert isinstance(read.error, SessionFailed)


def test_lgo_002_the_end_without_an_answer() -> None:
    script = Script(QUIET).log_in()
    script.machine.request_logout(script.now)
    script.one(LogoutRequest)
    script.machine.receive_eof(script.now)
    script.settle()
    assert not script.ended().again


def test_lgo_002_logging_out_while_recovering() -> None:
    """There is no connection to log out on; everything ends at once."""
    script = Script(QUIET).log_in()
    read = script.read(0)
    script.take()
    script.machine.receive_eof(script.now)
    assert not read.done
    script.machine.request_logout(script.now)
    script.settle()
    assert isinstance(read.error, SessionFailed)
    assert not script.ended().again
    assert script.machine.state is SessionState.Q1_FREE


def test_lgo_002_logging_out_while_logging_in() -> None:
    script = Script(QUIET).log_in()
    read = script.read(0)
    script.take()
    script.machine.receive_eof(script.now)
    script.connect()
    script.machine.request_logout(script.now)
    script.settle()
    assert script.lost
    assert isinstance(read.error, SessionFailed)
    assert script.machine.state is SessionState.Q1_FREE


def test_lgo_002_logging_out_behind_the_barrier() -> None:
    script = Script(QUIET).log_in()
    read = script.read(0)
    script.take()
    script.machine.receive_eof(script.now)
    script.log_in()
    control = script.read(0, control=True)
    script.take()
    script.machine.request_logout(script.now)
    assert isinstance(read.error, SessionFailed)
    script.pass_time(5)
    script.send(script.logged_out(script.one(LogoutRequest)))
    assert control.done
    assert script.lost


@pytest.mark.parametrize("response", [1, 2, 3])
def test_lgo_003_a_refused_logout_is_a_failure(response: int) -> None:
    """RFC 7143 11.15.1, 11.15.3: the connection is given up; Time2Wait holds."""
    script = Script(QUIET).log_in()
    script.send(script.async_message(1, parameter3=0))
    script.send(script.logged_out(script.one(LogoutRequest), response, time2wait=3))
    assert isinstance(script.ended().error, ConnectionLost)
    assert script.ended().wait == 3


def test_a_logout_response_that_nobody_asked_for() -> None:
    script = Script(QUIET).log_in()
    script.read(0)
    request: Any = script.one(ScsiCommand)
    script.send(script.logged_out(request))
    assert isinstance(script.ended().error, ProtocolError)


def test_late_answers_to_pings_are_ignored() -> None:
    script = Script(QUIET).log_in()
    script.send(script.nop_in(initiator_task_tag=0x7777))
    assert not script.lost
    assert not any(isinstance(event, Warned) for event in script.events)
