# SPDX-License-Identifier: Apache-2.0
"""Command numbering and the window (RFC 7143 4.2.2.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import ConnectionLost, LoginRejected, ProtocolError
from pyscsi_init.pdu import (
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    NopOut,
    ScsiCommand,
    TaskManagementRequest,
    TextRequest,
)
from pyscsi_init.session import ConnectionEnded, LoginEnded, TaskManagementFunction
from pyscsi_init.session.window import CommandWindow
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import MASK, Issued, Script

SERIAL = st.integers(0, MASK)


def test_seq_001_numbers_wrap_at_32_bits() -> None:
    """RFC 7143 4.2.2.1: CmdSN arithmetic is that of RFC 1982 with SERIAL_BITS 32."""
    script = Script(cmd_sn=0xFFFFFFFC, window=8).log_in()
    for expected in range(0xFFFFFFFC, 0xFFFFFFFC + 16):
        read = script.read(0)
        command = script.one(ScsiCommand)
        assert command.cmd_sn == expected & MASK
        script.send(script.response(command))
        assert read.done
        assert read.error is None


def test_seq_001_a_window_that_wraps_is_used_whole() -> None:
    """RFC 7143 4.2.2.1: MaxCmdSN beyond the wrap is larger, not smaller."""
    script = Script(cmd_sn=0xFFFFFFF0, window=32).log_in()
    for _ in range(40):
        script.read(0)
    assert [pdu.cmd_sn for pdu in script.take()] == [(0xFFFFFFF0 + i) & MASK for i in range(32)]


def test_seq_002_the_login_carries_the_first_cmd_sn() -> None:
    """RFC 7143 11.12.8: all login requests carry the initial CmdSN, and so does the first command
    of full feature phase."""
    script = Script(cmd_sn=77).log_in()
    assert len(script.login_requests) >= 2
    assert {request.cmd_sn for request in script.login_requests} == {77}
    script.read(0)
    assert script.one(ScsiCommand).cmd_sn == 77


def test_seq_003_commands_leave_in_consecutive_order() -> None:
    """RFC 7143 4.2.2.1: CmdSN advances by one a command, and they leave in that order."""
    script = Script(Settings(queue_depth=500), window=200).log_in()
    reads = [script.read(0) for _ in range(200)]
    commands = script.take()
    assert [command.cmd_sn for command in commands] == list(range(1000, 1200))
    assert len({command.initiator_task_tag for command in commands}) == 200
    script.send(*(script.response(command) for command in reversed(commands)))
    assert all(read.done for read in reads)


def test_seq_004_immediate_pdus_do_not_advance_cmd_sn() -> None:
    """RFC 7143 4.2.2.1: an immediate PDU carries the current CmdSN and does not advance it."""
    script = Script(cmd_sn=50).log_in()
    first = script.read(0)
    script.machine.abort_task(first.task, script.now)
    script.send(script.nop_in(target_transfer_tag=1))
    script.read(0)
    pdus = script.take()
    assert [type(pdu) for pdu in pdus] == [ScsiCommand, TaskManagementRequest, NopOut, ScsiCommand]
    assert [pdu.cmd_sn for pdu in pdus] == [50, 51, 51, 51]
    assert [getattr(pdu, "immediate", False) for pdu in pdus] == [False, True, True, False]


def test_seq_005_no_command_beyond_the_window() -> None:
    """RFC 7143 4.2.2.1: MaxCmdSN = ExpCmdSN-1 closes the window; commands wait for it to open."""
    script = Script(window=1).log_in()
    for _ in range(8):
        script.read(0)
    command = script.one(ScsiCommand)
    script.send(script.response(command, exp_cmd_sn=1001, max_cmd_sn=1000))
    assert script.take() == []
    script.pass_time(2)
    assert script.take() == []
    script.send(script.nop_in(exp_cmd_sn=1001, max_cmd_sn=1004))
    assert [pdu.cmd_sn for pdu in script.take()] == [1001, 1002, 1003, 1004]


def test_seq_006_a_window_of_one_serialises() -> None:
    """RFC 7143 4.2.2.1: with MaxCmdSN = ExpCmdSN one command is under way at most."""
    script = Script(window=1).log_in()
    reads = [script.read(0) for _ in range(5)]
    for read in reads:
        script.send(script.response(script.one(ScsiCommand)))
        assert read.done


def test_seq_006_a_large_window_is_used_without_waiting() -> None:
    """RFC 7143 4.2.2.1: commands go out as far as the window reaches."""
    script = Script(window=100).log_in()
    for _ in range(128):
        script.read(0)
    assert len(script.take()) == 100


def test_seq_006_queue_depth_bounds_what_is_in_flight() -> None:
    """Our own limit holds under any window."""
    script = Script(Settings(queue_depth=3), window=100).log_in()
    reads = [script.read(0) for _ in range(9)]
    seen = 0
    while seen < 9:
        commands = script.take()
        assert 0 < len(script.machine.tasks.in_flight) <= 3
        seen += len(commands)
        script.send(script.response(commands[0]))
        for command in commands[1:]:
            script.send(script.response(command))
    assert all(read.done for read in reads)


def test_seq_007_immediate_pdus_pass_a_closed_window() -> None:
    """RFC 7143 4.2.2.1: the window does not hold up what is immediate."""
    script = Script(window=1).log_in()
    read = script.read(0)
    command = script.one(ScsiCommand)
    script.send(script.nop_in(exp_cmd_sn=1001, max_cmd_sn=1000, target_transfer_tag=9))
    assert script.one(NopOut).target_transfer_tag == 9
    script.machine.abort_task(read.task, script.now)
    request = script.one(TaskManagementRequest)
    assert request.referenced_task_tag == command.initiator_task_tag


def test_seq_008_a_window_that_ends_before_it_begins_is_ignored() -> None:
    """RFC 7143 4.2.2.1: MaxCmdSN less than ExpCmdSN-1: both are ignored."""
    script = Script(window=4).log_in()
    script.send(script.nop_in(exp_cmd_sn=1000, max_cmd_sn=998))
    script.send(script.nop_in(exp_cmd_sn=2000, max_cmd_sn=1998))  # neither of them
    assert not script.lost
    assert script.machine.window.exp_cmd_sn == 1000
    for _ in range(6):
        script.read(0)
    assert len(script.take()) == 4


def test_seq_009_the_window_only_moves_forward() -> None:
    """RFC 7143 4.2.2.1: a smaller MaxCmdSN is of an older PDU and is ignored."""
    script = Script(window=50).log_in()
    script.send(script.nop_in(exp_cmd_sn=1000, max_cmd_sn=1010))
    for _ in range(60):
        script.read(0)
    assert len(script.take()) == 50


def _scsi_response(script: Script, command: ScsiCommand, **window: int) -> Any:
    return script.response(command, **window)


def _data_in(script: Script, command: ScsiCommand, **window: int) -> Any:
    return script.data_in(command, 0, bytes(512), **window)


def _nop_in(script: Script, command: ScsiCommand, **window: int) -> Any:
    return script.nop_in(**window)


def _async(script: Script, command: ScsiCommand, **window: int) -> Any:
    return script.async_message(0, **window)


def _reject(script: Script, command: ScsiCommand, **window: int) -> Any:
    data_out = b"\x05" + bytes(47)
    return script.reject(command, 2, data=data_out, **window)


def _management(script: Script, command: ScsiCommand, **window: int) -> Any:
    script.manage(TaskManagementFunction.CLEAR_ACA)
    answer = script.managed(script.one(TaskManagementRequest))
    answer.exp_cmd_sn, answer.max_cmd_sn = window["exp_cmd_sn"], window["max_cmd_sn"]
    return answer


@pytest.mark.parametrize("kind", [_scsi_response, _data_in, _nop_in, _async, _reject, _management])
def test_seq_010_every_pdu_opens_the_window(kind: Callable[..., Any]) -> None:
    """RFC 7143 4.2.2.1: the numbers are taken from every PDU that has them."""
    script = Script(window=1).log_in()
    script.read(512)
    command = script.one(ScsiCommand)
    script.read(0)
    assert script.take() == []
    pdu = kind(script, command, exp_cmd_sn=1001, max_cmd_sn=1001)
    if kind is _scsi_response:
        pdu.status = 8  # without data only a status that is no success may come
    script.send(pdu)
    assert script.one(ScsiCommand).cmd_sn == 1001


def test_seq_010_r2t_opens_the_window() -> None:
    """RFC 7143 11.8: an R2T carries ExpCmdSN and MaxCmdSN too."""
    script = Script(window=1, InitialR2T="Yes", ImmediateData="No").log_in()
    script.write(bytes(512))
    command = script.one(ScsiCommand)
    script.read(0)
    script.send(script.r2t(command, 0, 512, exp_cmd_sn=1001, max_cmd_sn=1001))
    assert [type(pdu).__name__ for pdu in script.take()] == ["DataOut", "ScsiCommand"]


def test_seq_010_text_and_logout_responses_count_too() -> None:
    """RFC 7143 11.11, 11.15: the same fields in text and logout responses."""
    script = Script(window=1).log_in()
    ask = script.ask([])
    request = script.one(TextRequest)
    script.read(0)
    script.send(script.text(request, [], exp_cmd_sn=1001, max_cmd_sn=1001))
    assert ask.done
    assert script.one(ScsiCommand).cmd_sn == 1001
    script.machine.request_logout(script.now)
    script.pass_time(6)
    logout = script.take()[-1]
    assert isinstance(logout, LogoutRequest)
    script.send(script.logged_out(logout, exp_cmd_sn=1002, max_cmd_sn=1010))
    assert script.machine.window.max_cmd_sn == 1010


def test_seq_010_a_failed_login_response_says_nothing_of_the_window() -> None:
    """RFC 7143 11.13.5: with a Status-Class other than 0 the numbers are not valid."""
    script = Script()
    script.connect()
    request = script.one(LoginRequest)
    script.send(
        LoginResponse(
            initiator_task_tag=request.initiator_task_tag,
            isid=request.isid,
            stat_sn=0xDEAD,
            exp_cmd_sn=0x12345678,
            max_cmd_sn=0x92345678,
            status_class=3,
            status_detail=1,
        )
    )
    assert isinstance(script.event(LoginEnded).error, LoginRejected)
    script.log_in()
    script.read(0)
    assert script.one(ScsiCommand).cmd_sn == 1000


@pytest.mark.parametrize("first", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_seq_011_stat_sn_starts_anywhere(first: int) -> None:
    """RFC 7143 4.2.2.2: StatSN begins with any value, and ExpStatSN is always the next one."""
    script = Script(stat_sn=first).log_in()
    assert script.login_requests[1].exp_stat_sn == (first + 1) & MASK
    for _ in range(4):
        script.read(0)
        command = script.one(ScsiCommand)
        assert command.exp_stat_sn == script.stat_sn
        script.send(script.response(command))
    assert script.stat_sn == (first + len(script.login_requests) + 4) & MASK


def test_seq_012_what_advances_stat_sn_and_what_does_not() -> None:
    """RFC 7143 11.7.3, 11.8.3, 11.19.2: no StatSN in an R2T, an unsolicited NOP-In, or a Data-In
    without status."""
    script = Script(InitialR2T="Yes", ImmediateData="No").log_in()
    write = script.write(bytes(512))
    command = script.one(ScsiCommand)
    script.send(script.r2t(command, 0, 512))
    assert script.take()[0].exp_stat_sn == script.stat_sn
    script.send(
        script.nop_in(), script.async_message(0), script.reject(command, 2, data=b"\5" * 48)
    )
    script.send(script.response(command))
    assert write.done
    read = script.read(1024)
    command = script.one(ScsiCommand)
    assert command.exp_stat_sn == script.stat_sn
    script.send(script.data_in(command, 0, bytes(512), stat_sn=0xBADBAD))
    script.send(script.nop_in(target_transfer_tag=3))
    assert script.one(NopOut).exp_stat_sn == script.stat_sn
    script.send(
        script.data_in(command, 512, bytes(512), data_sn=1, final=True, status_present=True)
    )
    assert read.done
    script.read(0)
    assert script.one(ScsiCommand).exp_stat_sn == script.stat_sn


@pytest.mark.parametrize("ahead", [1, 2, 1000, 2**31 - 1, 2**31])
def test_seq_013_a_gap_in_stat_sn_ends_the_connection(ahead: int) -> None:
    """RFC 7143 4.2.2.2: a difference in StatSN that cannot be explained triggers recovery."""
    script = Script().log_in()
    read = script.read(0)
    command = script.one(ScsiCommand)
    script.send(script.response(command, stat_sn=(script.stat_sn + ahead) & MASK))
    assert script.lost
    assert isinstance(script.ended().error, ProtocolError)
    assert not read.done  # it waits to be sent again


def test_seq_014_a_status_that_comes_twice_is_told_once() -> None:
    """RFC 7143 7.9: a StatSN that was seen already is discarded, also where its tag lives again."""
    script = Script().log_in()
    read = script.read(0)
    first = script.response(script.one(ScsiCommand))
    script.send(first)
    assert read.done
    script.machine.tasks.last_tag = first.initiator_task_tag - 1  # the tag comes round again
    again = script.read(0)
    command = script.one(ScsiCommand)
    assert command.initiator_task_tag == first.initiator_task_tag
    script.send(first)
    assert not again.done
    script.send(script.response(command))
    assert again.done
    assert read.times == 1


def test_a_target_that_counts_what_was_never_sent_is_left() -> None:
    """RFC 7143 4.2.2.1: ExpCmdSN ahead of CmdSN: no later command would ever fit."""
    script = Script().log_in()
    script.send(script.nop_in(exp_cmd_sn=1001, max_cmd_sn=1064))
    assert isinstance(script.ended().error, ProtocolError)


def test_a_window_that_never_opens_ends_the_connection() -> None:
    """No wait without an end: with nothing under way only the target could open its window."""
    script = Script(Settings(command_timeout=30, noop_interval=0), window=1).log_in()
    first = script.read(0)
    second = script.read(0)
    command = script.one(ScsiCommand)
    script.send(script.response(command, exp_cmd_sn=1001, max_cmd_sn=1000))
    assert first.done
    script.pass_time(29)
    assert not script.lost
    script.pass_time(3)
    assert isinstance(script.ended().error, ConnectionLost)
    assert script.ended().again
    assert not second.done
    script.log_in()
    script.machine.resume(script.now)
    script.send(script.response(script.one(ScsiCommand)))
    assert second.done


def test_a_window_that_opens_late_is_no_failure() -> None:
    script = Script(Settings(command_timeout=30, noop_interval=0), window=1).log_in()
    issued: list[Issued] = []
    for _ in range(4):
        issued += [script.read(0), script.read(0)]
        script.send(script.response(script.one(ScsiCommand), max_cmd_sn=script.exp_cmd_sn - 1))
        script.pass_time(25)
        script.send(script.nop_in())
        script.send(script.response(script.one(ScsiCommand)))
        script.pass_time(25)
    assert all(each.done for each in issued)
    assert [event for event in script.events if isinstance(event, ConnectionEnded)] == []


@given(st.data())
def test_window_never_lets_through_what_the_target_did_not_grant(data: st.DataObject) -> None:
    start = data.draw(SERIAL)
    window = CommandWindow(start)
    granted = taken = 0
    for _ in range(20):
        if data.draw(st.booleans()):
            exp = data.draw(st.integers(0, taken))
            size = data.draw(st.integers(0, 300))
            window.update((start + exp) & MASK, (start + exp + size - 1) & MASK)
            granted = max(granted, exp + size, 1)
        else:
            while window.open_slots:
                assert window.take() == (start + taken) & MASK
                taken += 1
    assert taken <= max(granted, 1)
