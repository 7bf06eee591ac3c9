# SPDX-License-Identifier: Apache-2.0
"""Any state, any input: the session machine under PDUs, bytes, deadlines and intentions in any
order. It never raises, tells each task its end exactly once, keeps its memory bounded, and can
always be closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyscsi_init.connection import ConnectionState
from pyscsi_init.errors import IscsiError, LocalProtocolError, SessionFailed
from pyscsi_init.pdu import (
    AsyncMessage,
    DataIn,
    LoginRequest,
    LoginResponse,
    LogoutResponse,
    NopIn,
    ReadyToTransfer,
    Reject,
    ScsiCommand,
    ScsiResponse,
    TaskManagementResponse,
    TextResponse,
)
from pyscsi_init.pdu.framer import INITIAL_CAPACITY
from pyscsi_init.session import ConnectionEnded, Replay, SessionState, TaskManagementFunction
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import MASK, RESERVED, Issued, Script

QUEUE_DEPTH = 8
WITHOUT_A_TASK = [each for each in TaskManagementFunction if each not in (1, 8, 9)]
"""Functions that name no task; ABORT TASK is `cancel`."""

SETTINGS = Settings(
    queue_depth=QUEUE_DEPTH,
    command_timeout=30,
    task_management_timeout=15,
    noop_interval=5,
    noop_timeout=5,
    logout_timeout=5,
    max_recv_data_segment_length=4096,
)
SMALL = st.integers(0, 4)
WORD = st.one_of(SMALL, st.sampled_from([512, 4096, RESERVED, 0x7FFFFFFF]), st.integers(0, MASK))


class Chaos:
    """A script and everything that was asked of its machine."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self.draw = draw
        self.script = Script(SETTINGS, window=6, InitialR2T="No", FirstBurstLength="2048")
        self.issued: list[Issued] = []
        self.commands: list[Any] = []
        self.requests: list[Any] = []

    # -- intentions -----------------------------------------------------------------------------

    def connect(self) -> None:
        """TCP comes up, and perhaps the login goes well."""
        script = self.script
        if not script.lost or script.machine.closing:
            try:
                script.connect()
            except LocalProtocolError:
                return
            raise AssertionError("two connections at once")
        if self.draw(st.booleans()):
            script.log_in()
            self.commands.clear()
        else:
            script.connect()

    def read(self) -> None:
        replay = self.draw(st.sampled_from(Replay))
        length = self.draw(st.sampled_from([0, 512, 4096]))
        self.issued.append(
            self.script.read(length, replay=replay, control=self.draw(st.booleans()))
        )

    def write(self) -> None:
        replay = self.draw(st.sampled_from(Replay))
        length = self.draw(st.sampled_from([0, 512, 10_000]))
        self.issued.append(self.script.write(bytearray(length), replay=replay))

    def abort(self) -> None:
        tasks = [each.task for each in self.issued if hasattr(each, "task")]
        if tasks:
            task = tasks[self.draw(st.integers(0, len(tasks) - 1))]
            self.script.machine.abort_task(task, self.script.now)

    def manage(self) -> None:
        self.issued.append(self.script.manage(self.draw(st.sampled_from(WITHOUT_A_TASK))))

    def text(self) -> None:
        self.issued.append(self.script.ask([("X-k", "v" * self.draw(SMALL))]))

    def resume(self) -> None:
        self.script.machine.resume(self.script.now)

    def refuse(self) -> None:
        self.script.machine.refuse(SessionFailed("policy"))

    def drop(self) -> None:
        self.script.machine.drop_connection("test", self.script.now)

    def log_out(self) -> None:
        self.script.machine.request_logout(self.script.now)

    def eof(self) -> None:
        self.script.machine.receive_eof(self.script.now)

    def wait(self) -> None:
        self.script.pass_time(self.draw(st.sampled_from([0.1, 1.0, 5.0, 16.0, 31.0])))

    def take(self) -> None:
        """The socket takes what there is, and the target reads it."""
        if self.script.lost:
            return
        connection = self.script.machine.connection
        assert connection is not None
        if connection.state is ConnectionState.S4_IN_LOGIN:
            self.script.raw()
            return
        for pdu in self.script.take():
            (self.commands if isinstance(pdu, ScsiCommand) else self.requests).append(pdu)

    # -- the target -----------------------------------------------------------------------------

    def honest(self) -> None:
        """A right answer to a command."""
        self.take()
        if self.commands and not self.script.lost:
            command = self.commands.pop()
            length = command.expected_data_transfer_length
            if command.read and length <= 4096:
                self.script.send(
                    self.script.data_in(command, 0, bytes(length), final=True, status_present=True)
                )
            else:
                self.script.send(self.script.response(command))

    def tag(self) -> int:
        known = [pdu.initiator_task_tag for pdu in [*self.commands, *self.requests]]
        return self.draw(st.one_of(st.sampled_from(known or [1]), WORD))

    def pdu(self) -> None:
        """Any PDU of a target, with some fields right."""
        script, draw = self.script, self.draw
        if script.lost:
            return
        kind = draw(
            st.sampled_from(
                [
                    AsyncMessage,
                    DataIn,
                    LoginResponse,
                    LogoutResponse,
                    NopIn,
                    ReadyToTransfer,
                    Reject,
                    ScsiResponse,
                    TaskManagementResponse,
                    TextResponse,
                ]
            )
        )
        fields: dict[str, Any] = {}
        if draw(st.integers(0, 9)) == 0:
            fields["stat_sn"] = draw(WORD)
        if draw(st.integers(0, 9)) == 0:
            fields["exp_cmd_sn"], fields["max_cmd_sn"] = draw(WORD), draw(WORD)
        elif draw(st.booleans()):
            fields["max_cmd_sn"] = (script.exp_cmd_sn + draw(st.integers(-1, 8))) & MASK
        counts = kind not in (ReadyToTransfer, DataIn)
        pdu: Any = script.make(kind, counts=counts, **fields)
        boolean = st.booleans()
        for name in ("final", "continue_", "transit", "status_present", "residual_underflow"):
            if hasattr(pdu, name):
                setattr(pdu, name, draw(boolean))
        if kind is DataIn and pdu.status_present:
            pdu.stat_sn, script.stat_sn = script.stat_sn, (script.stat_sn + 1) & MASK
        for name, bits in (
            ("response", 8),
            ("status", 8),
            ("reason", 8),
            ("async_event", 8),
            ("parameter1", 16),
            ("parameter2", 3),
            ("parameter3", 16),
            ("time2wait", 3),
            ("target_transfer_tag", 32),
            ("data_sn", 32),
            ("r2t_sn", 32),
            ("buffer_offset", 32),
            ("desired_data_transfer_length", 32),
            ("residual_count", 32),
            ("exp_data_sn", 32),
        ):
            if hasattr(pdu, name):
                setattr(pdu, name, draw(WORD) & ((1 << bits) - 1))
        if hasattr(pdu, "initiator_task_tag") and kind is not AsyncMessage:
            pdu.initiator_task_tag = self.tag()
        if kind is Reject:
            known = [*self.commands, *self.requests]
            pdu.data = (
                draw(st.sampled_from(known)).encode() if known else draw(st.binary(max_size=60))
            )
        elif kind not in (ReadyToTransfer, TaskManagementResponse, LogoutResponse):
            pdu.data = draw(st.one_of(st.binary(max_size=40), st.just(bytes(512))))
        script.send(pdu)

    def junk(self) -> None:
        self.script.feed(self.draw(st.binary(min_size=1, max_size=200)))

    # -- what always holds ------------------------------------------------------------------------

    def check(self) -> None:
        machine = self.script.machine
        tasks = machine.tasks
        assert len(tasks.in_flight) <= QUEUE_DEPTH
        assert all(each.times <= 1 for each in self.issued)
        open_tasks = {each.task for each in self.issued if hasattr(each, "task") and not each.done}
        held = [*tasks.in_flight.values(), *tasks.waiting, *tasks.control]
        assert len(held) == len(set(held))
        assert set(held) == open_tasks, "a task is held nowhere, or after its end"
        assert len(tasks.requests) <= len(self.issued) + 2
        connection = machine.connection
        if connection is None:
            assert not tasks.in_flight
            assert not tasks.requests
            assert machine.data_to_send() == ()
        else:
            assert connection.state is not ConnectionState.S1_FREE
            assert connection.framer.capacity <= 2 * INITIAL_CAPACITY
            in_full_feature = connection.state is not ConnectionState.S4_IN_LOGIN
            assert in_full_feature == (machine.state is SessionState.Q3_LOGGED_IN)

    def close(self) -> None:
        """Whatever happened, the session can be closed in bounded time, and everybody hears."""
        script = self.script
        script.machine.request_logout(script.now)
        script.pass_time(2 * SETTINGS.logout_timeout + 1)
        script.settle()
        assert script.lost
        assert script.machine.state is SessionState.Q1_FREE
        assert script.machine.next_deadline() is None
        assert [each for each in self.issued if each.times != 1] == []
        for each in self.issued:
            assert each.error is None or isinstance(each.error, IscsiError)
        ended = [event for event in script.events if isinstance(event, ConnectionEnded)]
        assert sum(not event.again for event in ended) <= 3


ACTIONS = (
    *[Chaos.pdu] * 6,
    *[Chaos.honest] * 3,
    *[Chaos.connect] * 2,
    *[Chaos.read, Chaos.write] * 2,
    Chaos.take,
    Chaos.abort,
    Chaos.manage,
    Chaos.text,
    Chaos.resume,
    Chaos.refuse,
    Chaos.drop,
    Chaos.eof,
    Chaos.wait,
    Chaos.junk,
)


@pytest.mark.conformance("TMO-004")
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data(), logged_in=st.booleans())
def test_erl_016_any_state_any_input(data: st.DataObject, logged_in: bool) -> None:
    """RFC 7143 8.1, 8.3: no input leads out of the states."""
    chaos = Chaos(data.draw)
    if logged_in:
        chaos.script.log_in()
    for _ in range(data.draw(st.integers(1, 40))):
        data.draw(st.sampled_from(ACTIONS))(chaos)
        chaos.check()
    if data.draw(st.booleans()):
        chaos.log_out()
        for _ in range(data.draw(st.integers(0, 10))):
            data.draw(st.sampled_from(ACTIONS))(chaos)
            chaos.check()
    chaos.close()


@given(st.lists(st.binary(min_size=1, max_size=120), max_size=30), st.booleans())
def test_tmo_004_bytes_of_any_kind(chunks: list[bytes], logged_in: bool) -> None:
    """Bad bytes end the connection, or do nothing; they raise nothing."""
    script = Script(SETTINGS)
    if logged_in:
        script.log_in()
    else:
        script.connect()
    issued = script.read(512)
    for chunk in chunks:
        script.feed(chunk)
    script.machine.request_logout(script.now)
    script.pass_time(20)
    assert issued.done


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_an_honest_target_serves_everything(data: st.DataObject) -> None:
    """Random commands with random losses and windows: every SAFE one ends GOOD in the end."""
    script = Script(SETTINGS, window=data.draw(st.integers(1, 10))).log_in()
    issued: list[Issued] = []
    contents: list[bytes] = []
    for number in range(data.draw(st.integers(1, 15))):
        contents.append(bytes([number + 1]) * 512)
        issued.append(script.read(512) if number % 2 else script.write(contents[-1]))
        if data.draw(st.booleans()):
            script.machine.receive_eof(script.now)
            script.settle()
        if script.lost and data.draw(st.booleans()):
            script.log_in()
            script.machine.resume(script.now)
        if not script.lost and data.draw(st.booleans()):
            for command in script.take():
                serve(script, command)
    if script.lost:
        script.log_in()
    script.machine.resume(script.now)
    while commands := script.take():
        for command in commands:
            serve(script, command)
    assert all(each.done and each.error is None for each in issued)
    assert all(each.buffer == b"r" * 512 for each in issued[1::2])


def serve(script: Script, command: Any) -> None:
    """The right answer."""
    if isinstance(command, LoginRequest):
        return
    if command.read:
        script.send(script.data_in(command, 0, b"r" * 512, final=True, status_present=True))
    else:
        script.send(script.response(command))
