# SPDX-License-Identifier: Apache-2.0
"""Asynchronous messages, and PDUs that are none of a target's (RFC 7143 7.7, 11.9)."""

from __future__ import annotations

from typing import Any

import pytest

from pyscsi_init.errors import ConnectionLost, HeaderDigestError, ProtocolError, SessionFailed
from pyscsi_init.pdu import (
    InitiatorOpcode,
    LogoutRequest,
    NopOut,
    ScsiCommand,
    TargetOpcode,
    TextRequest,
    serialize,
)
from pyscsi_init.session import AsyncEventReceived, Warned
from pyscsi_init.session.receive import HANDLERS
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import LUN_5, Script

SENSE = bytes.fromhex("7000060000 00000a 00000000 2a09 00000000".replace(" ", ""))
QUIET = Settings(noop_interval=0, logout_timeout=5)


@pytest.mark.parametrize("extra", [b"", b"v" * 64])
def test_asy_001_002_a_scsi_event(extra: bytes) -> None:
    """RFC 7143 11.9.1, 11.9.4: a StatSN is taken; sense and LUN go to whom it concerns; what
    follows the sense is skipped; no task is touched."""
    script = Script().log_in()
    read = script.read(0)
    command = script.one(ScsiCommand)
    script.send(
        script.async_message(0, lun=LUN_5, data=len(SENSE).to_bytes(2, "big") + SENSE + extra)
    )
    event = script.event(AsyncEventReceived)
    assert (event.code, bytes(event.lun), event.sense) == (0, LUN_5, SENSE)
    script.send(script.response(command))
    assert read.done
    script.read(0)
    assert script.one(ScsiCommand).exp_stat_sn == script.stat_sn


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0", b"\xff\xff", b"\0\x40short"])
def test_asy_002_odd_events_do_no_harm(data: bytes) -> None:
    script = Script().log_in()
    script.send(script.async_message(0, data=data))
    assert not script.lost


def test_asy_003_the_target_asks_for_a_logout() -> None:
    """RFC 7143 11.9.1: no new commands, what is in flight has half of Parameter3, then a logout,
    then the session comes back."""
    script = Script(QUIET).log_in()
    reads = [script.read(0) for _ in range(4)]
    commands = script.take()
    script.send(script.async_message(1, parameter3=3))
    late = script.read(0)
    assert script.take() == []
    script.send(script.response(commands[0]), script.response(commands[1]))
    script.pass_time(1.4)
    assert script.take() == []
    script.send(script.async_message(1, parameter3=3))  # again
    script.pass_time(0.2)
    logout = script.one(LogoutRequest)
    assert logout.reason in (0, 1)
    script.send(script.async_message(1, parameter3=3))  # and late
    assert script.take() == []
    script.send(script.logged_out(logout))
    assert (script.ended().error, script.ended().again) == (None, True)
    assert [read.done for read in reads] == [True, True, False, False]
    script.log_in()
    script.machine.resume(script.now)
    again = script.take()
    assert len(again) == 3
    script.send(*(script.response(command) for command in again))
    assert all(read.done and read.error is None for read in [*reads, late])


def test_asy_003_at_once_where_nothing_is_in_flight() -> None:
    script = Script(QUIET).log_in()
    script.send(script.async_message(1, parameter3=60))
    assert isinstance(script.one(LogoutRequest), LogoutRequest)


def test_asy_003_the_last_command_lets_the_logout_go() -> None:
    script = Script(QUIET).log_in()
    script.read(0)
    command = script.one(ScsiCommand)
    script.send(script.async_message(1, parameter3=60))
    assert script.take() == []
    script.send(script.response(command))
    assert isinstance(script.one(LogoutRequest), LogoutRequest)


def test_asy_003_a_logout_that_is_never_answered_is_bounded() -> None:
    """A target exists that asks for a logout and answers none."""
    script = Script(QUIET).log_in()
    read = script.read(0)
    script.take()
    script.send(script.async_message(1, parameter3=2))
    script.pass_time(1)
    assert isinstance(script.one(LogoutRequest), LogoutRequest)
    script.pass_time(5)
    assert script.lost
    assert script.ended().again
    assert not read.done


def test_asy_003_a_long_time_is_not_taken() -> None:
    """As early as possible, says RFC 7143 11.9.1, whatever Parameter3 allows; and a target that
    dies meanwhile is noticed."""
    script = Script(Settings(noop_interval=5, noop_timeout=5)).log_in()
    script.read(0)
    script.take()
    script.send(script.async_message(1, parameter3=65535))
    script.pass_time(5)
    assert isinstance(script.one(NopOut), NopOut)
    script.pass_time(5)
    assert script.lost


def test_a_cancelled_command_while_the_target_waits_for_the_logout() -> None:
    """No new request may be sent; the task ends with the connection."""
    script = Script(QUIET).log_in()
    read = script.read(0)
    script.take()
    script.send(script.async_message(1, parameter3=4))
    script.machine.abort_task(read.task, script.now)
    assert script.take() == []
    control = script.read(0, control=True)
    assert isinstance(control.error, ConnectionLost)
    script.pass_time(2)
    script.send(script.logged_out(script.one(LogoutRequest)))
    assert read.done


@pytest.mark.parametrize("event", [2, 3])
@pytest.mark.parametrize("wait", [0, 4])
def test_asy_004_005_the_target_drops_the_connection(event: int, wait: int) -> None:
    """RFC 7143 11.9.1: as a failure of the connection; the next login waits Parameter2."""
    script = Script().log_in()
    read = script.read(0)
    script.take()
    script.send(script.async_message(event, parameter1=0, parameter2=wait, parameter3=10))
    assert isinstance(script.ended().error, ConnectionLost)
    assert script.ended().wait == wait
    assert not read.done


def test_asy_004_another_connection_is_none_of_ours() -> None:
    script = Script().log_in()
    script.send(script.async_message(2, parameter1=9, parameter2=4))
    assert not script.lost
    assert isinstance(script.events[-1], Warned)


def test_asy_006_the_target_wants_a_negotiation() -> None:
    """RFC 7143 11.9.1: a text request within Parameter3, an empty one if there is nothing to
    change."""
    script = Script().log_in()
    script.send(script.async_message(4, parameter3=3))
    request = script.one(TextRequest)
    assert bytes(request.data) == b""
    script.send(script.async_message(4, parameter3=3))  # one is pending
    assert script.take() == []
    script.send(script.text(request, []))
    assert not script.lost


@pytest.mark.parametrize("event", [5, 6, 100, 247])
def test_asy_007_unassigned_events_are_noted(event: int) -> None:
    script = Script().log_in()
    script.send(script.async_message(event))
    assert not script.lost
    assert isinstance(script.events[-1], Warned)


@pytest.mark.parametrize("event", [248, 250, 255])
def test_asy_007_vendor_events_are_told(event: int) -> None:
    script = Script().log_in()
    script.send(script.async_message(event, data=b"whatever"))
    assert script.event(AsyncEventReceived).code == event


def test_every_opcode_of_a_target_has_a_handler() -> None:
    assert set(HANDLERS) == set(TargetOpcode) - {TargetOpcode.LOGIN_RESPONSE}


@pytest.mark.parametrize("opcode", sorted({*InitiatorOpcode, 0x23, 0x2F, 0x30, 0x3E} - {*HANDLERS}))
def test_erl_003_an_opcode_that_no_target_has(opcode: int) -> None:
    """RFC 7143 7.7: a format error ends the session, which is recovered."""
    script = Script().log_in()
    read = script.read(0)
    script.take()
    script.feed(bytes([opcode]) + bytes(47))
    assert isinstance(script.ended().error, ProtocolError)
    assert script.ended().again
    assert not read.done


def test_erl_001_a_bad_header_digest() -> None:
    """RFC 7143 7.8: the next PDU cannot be located: session recovery."""
    script = Script(
        Settings(header_digest=("CRC32C",), data_digest=("CRC32C",)),
        HeaderDigest="CRC32C",
        DataDigest="CRC32C",
    ).log_in()
    data = bytearray(b"".join(serialize(script.nop_in(), True, True)))
    data[48] ^= 1
    script.feed(bytes(data))
    assert isinstance(script.ended().error, HeaderDigestError)


@pytest.mark.parametrize("kind", ["data-in", "response", "reject", "async", "text", "nop-in"])
def test_erl_001_a_bad_data_digest(kind: str) -> None:
    """RFC 7143 7.1.4.4, 7.8: at level 0 session recovery; what was damaged is never believed."""
    script = Script(
        Settings(header_digest=("CRC32C",), data_digest=("CRC32C",)),
        HeaderDigest="CRC32C",
        DataDigest="CRC32C",
    ).log_in()
    read = script.read(512)
    ask = script.ask([])
    command, request = script.take()
    pdu: Any = {
        "data-in": lambda: script.data_in(command, 0, b"d" * 512, final=True, status_present=True),
        "response": lambda: script.response(command, status=2, data=b"\0\x12" + SENSE),
        "reject": lambda: script.reject(command, 4),
        "async": lambda: script.async_message(0, data=b"\0\x12" + SENSE),
        "text": lambda: script.text(request, [("X-a", "b")]),
        "nop-in": lambda: script.nop_in(initiator_task_tag=5, data=b"x"),
    }[kind]()
    data = bytearray(b"".join(serialize(pdu, True, True)))
    data[53] ^= 1
    script.feed(bytes(data))
    assert isinstance(script.ended().error, ProtocolError)
    assert not read.done
    assert ask.done


def test_erl_001_longer_than_we_declared() -> None:
    """RFC 7143 13.12: more than our MaxRecvDataSegmentLength; refused from the header alone."""
    script = Script(Settings(max_recv_data_segment_length=512)).log_in()
    script.read(4096)
    pdu = script.data_in(script.one(ScsiCommand), 0, bytes(1024))
    script.feed(b"".join(serialize(pdu))[:48])
    assert isinstance(script.ended().error, ProtocolError)


def test_pdus_behind_a_loss_are_not_looked_at() -> None:
    script = Script().log_in()
    read = script.read(0)
    command = script.one(ScsiCommand)
    script.send(script.async_message(3), script.response(command))
    assert script.lost
    assert not read.done


def test_the_end_of_a_session_that_was_closed() -> None:
    script = Script(QUIET).log_in()
    script.machine.request_logout(script.now)
    script.send(script.logged_out(script.one(LogoutRequest)))
    assert isinstance(script.read(0).error, SessionFailed)
