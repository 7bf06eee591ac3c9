# SPDX-License-Identifier: Apache-2.0
"""The login phase as the session sees it (RFC 7143 4.2.4, 6.3, 8.1.2)."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import (
    ConnectionLost,
    LoginError,
    LoginTimeout,
    ProtocolError,
)
from pyscsi_init.pdu import (
    LoginRequest,
    TargetOpcode,
)
from pyscsi_init.session import (
    LoginEnded,
    SessionState,
)
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import ISID, Script

QUIET = Settings(noop_interval=0)


def test_login_001_only_login_requests_until_full_feature_phase() -> None:
    """RFC 7143 4.2.4: the first byte on the wire is a login request, immediate, whatever waits."""
    script = Script(QUIET)
    reads = [script.read(0) for _ in range(3)]
    ask = script.ask([])
    assert isinstance(ask.error, ConnectionLost)
    script.connect()
    first = script.raw()
    assert first[0] == 0x43
    script.machine.connection_failed("again from the start", script.now)
    script.settle()
    script.log_in()
    assert len(script.take()) == 3
    assert not any(read.done for read in reads)


@pytest.mark.parametrize("opcode", sorted({*TargetOpcode, 0x00, 0x3E} - {0x23}))
def test_login_002_anything_else_ends_the_login(opcode: int) -> None:
    """RFC 7143 4.2.4: another PDU during login terminates the connection at once."""
    script = Script(QUIET)
    script.connect()
    script.take()
    script.feed(bytes([opcode]) + bytes(47))
    assert isinstance(script.event(LoginEnded).error, ProtocolError)
    assert script.raw() == b""
    assert script.machine.state is SessionState.Q1_FREE


def test_login_003_one_tag_and_one_identity_for_the_whole_phase() -> None:
    """RFC 7143 11.12.4 to 11.12.7: ITT, ISID, TSIH and CID are constant; one request at a
    time."""
    script = Script(QUIET)
    script.connect()
    requests = [script.one(LoginRequest)]
    for _ in range(3):
        answer = script.login_answer(requests[-1])
        answer.transit = False
        answer.next_stage = 0
        answer.data = b""
        script.send(answer)
        requests.append(script.one(LoginRequest))
    assert len({r.initiator_task_tag for r in requests}) == 1
    assert {(bytes(r.isid), r.tsih, r.cid) for r in requests} == {(ISID, 0, 0)}
    assert {(r.version_max, r.version_min) for r in requests} == {(0, 0)}


def test_login_003_another_tag_in_the_response() -> None:
    script = Script(QUIET)
    script.connect()
    answer = script.login_answer(script.one(LoginRequest))
    answer.initiator_task_tag ^= 1
    script.send(answer)
    assert isinstance(script.event(LoginEnded).error, ProtocolError)


@pytest.mark.parametrize("heard", ["nothing", "half a header", "a round a second"])
def test_login_026_a_login_is_bounded_in_time(heard: str) -> None:
    """RFC 7143 8.1.2, 10.3: T7, whatever the target does meanwhile."""
    script = Script(Settings(login_timeout=15))
    script.connect()
    request = script.one(LoginRequest)
    if heard == "half a header":
        script.feed(b"\x23" + bytes(19))
    for _ in range(14):
        script.pass_time(1)
        if heard == "a round a second":
            answer = script.login_answer(request)
            answer.transit, answer.next_stage, answer.data = False, 0, b""
            script.send(answer)
            request = script.one(LoginRequest)
    assert not script.lost
    script.pass_time(1.1)
    assert isinstance(script.event(LoginEnded).error, LoginTimeout)
    assert script.machine.next_deadline() is None


@pytest.mark.parametrize("when", ["after connect", "after a round", "inside a response"])
def test_login_027_the_end_at_any_step(when: str) -> None:
    """RFC 7143 8.1.2: T7; the attempt fails, the machine is ready for the next one."""
    script = Script(QUIET)
    script.connect()
    request = script.one(LoginRequest)
    data = script.encode(script.login_answer(request))
    if when == "after a round":
        script.feed(data)
        script.take()
    elif when == "inside a response":
        script.feed(data[:50])
    script.machine.receive_eof(script.now)
    script.settle()
    error = script.event(LoginEnded).error
    assert isinstance(error, LoginError)
    assert "login" in str(error)
    script.log_in()
    assert script.machine.state is SessionState.Q3_LOGGED_IN


def test_login_027_right_after_the_last_response() -> None:
    script = Script(QUIET).log_in()
    script.machine.receive_eof(script.now)
    script.settle()
    assert script.ended().again
    assert script.machine.state is SessionState.Q4_FAILED
