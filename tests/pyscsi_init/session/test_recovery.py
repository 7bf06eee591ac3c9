# SPDX-License-Identifier: Apache-2.0
"""Loss, and what a session does with its tasks then (RFC 7143 6.3.5, 7.1.4.4, 7.15)."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import (
    ConnectionLost,
    LocalProtocolError,
    LoginRejected,
    OutcomeUnknown,
    SessionFailed,
    TaskTimeout,
)
from pyscsi_init.pdu import (
    LoginRequest,
    LoginResponse,
    NopIn,
    ScsiCommand,
    ScsiResponse,
)
from pyscsi_init.session import (
    ConnectionEnded,
    LoggedIn,
    LoginEnded,
    Replay,
    SessionState,
    TaskManagementFunction,
    TaskState,
)
from pyscsi_init.session.tasks import MAX_ATTEMPTS
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import ISID, LUN, LUN_5, TARGET, TSIH, Script

QUIET = Settings(noop_interval=0)


def cut(script: Script) -> None:
    """The TCP connection dies."""
    script.machine.connection_failed("reset by the test", script.now)
    script.settle()


def test_login_028_reinstatement() -> None:
    """RFC 7143 6.3.5: the same InitiatorName and ISID with TSIH 0; what cannot be repeated ended
    before."""
    script = Script(QUIET).log_in()
    first = list(script.login_requests)
    safe = [script.read(0), script.write(bytes(512))]
    never = [script.write(bytes(512), replay=Replay.NEVER, lun=5) for _ in range(3)]
    script.take()
    cut(script)
    assert all(isinstance(task.error, OutcomeUnknown) for task in never)
    assert not any(task.done for task in safe)
    script.login_requests.clear()
    script.log_in()
    again = script.login_requests
    assert {(bytes(r.isid), r.tsih) for r in again} == {(ISID, 0)}
    assert again[0].data == first[0].data
    assert TARGET.encode() in again[0].data


def test_after_a_loss_only_control_passes_until_the_barrier_is() -> None:
    """Replay comes first and in order; then what came meanwhile."""
    script = Script(QUIET).log_in()
    writes = [script.write(bytes([n]) * 512) for n in range(3)]
    script.take()
    cut(script)
    late = script.write(b"late" * 128)
    script.log_in()
    assert script.event(LoggedIn).again
    assert script.machine.held
    assert script.take() == []
    control = script.read(0, control=True)
    command = script.one(ScsiCommand)
    assert not command.write
    script.send(script.response(command))
    assert control.done
    assert script.take() == []
    script.machine.resume(script.now)
    replayed = script.take()
    assert [pdu.data[:1] for pdu in replayed] == [b"\0", b"\1", b"\2", b"l"]
    assert len({pdu.initiator_task_tag for pdu in replayed}) == 4
    script.send(*(script.response(pdu) for pdu in replayed))
    assert all(task.done and task.error is None for task in [*writes, late])
    assert late.task.attempts == 1


def test_a_read_begins_anew_after_a_loss() -> None:
    """Nothing of the first attempt counts: numbers, data and residuals start again."""
    script = Script(QUIET, InitialR2T="Yes", ImmediateData="No").log_in()
    read, write = script.read(1024), script.write(b"w" * 1024)
    r, w = script.take()
    script.send(script.data_in(r, 0, b"old!" * 128), script.r2t(w, 0, 512))
    cut(script)
    script.log_in()
    script.machine.resume(script.now)
    r, w = script.take()
    script.send(script.data_in(r, 0, b"new!" * 256, final=True, status_present=True))
    script.send(script.r2t(w, 0, 1024))
    assert b"".join(pdu.data for pdu in script.take()) == b"w" * 1024
    script.send(script.response(w))
    assert (read.done, write.done) == (True, True)
    assert read.buffer == b"new!" * 256


def test_what_is_in_doubt_after_a_loss() -> None:
    """Only what modifies the medium and was sent; per logical unit."""
    script = Script(QUIET, window=2).log_in()
    script.write(bytes(512), lun=5)
    script.read(0)
    script.write(bytes(512))  # never sent: the window is closed
    assert len(script.take()) == 2
    cut(script)
    assert script.machine.tasks.unknown_outcome == {LUN_5}
    assert LUN not in script.machine.tasks.unknown_outcome


def test_a_loss_ends_control_and_management() -> None:
    script = Script(QUIET).log_in()
    control = script.read(0, control=True)
    reset = script.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
    ask = script.ask([])
    cut(script)
    for each in (control, reset, ask):
        assert each.done
        assert isinstance(each.error, ConnectionLost)
    assert script.machine.tasks.requests == {}
    late = script.read(0, control=True)
    assert isinstance(late.error, ConnectionLost)
    refused = script.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
    assert isinstance(refused.error, ConnectionLost)


def test_control_tasks_do_not_wait_for_a_login() -> None:
    """The recovery that makes them is over with the connection; it will ask again."""
    script = Script(QUIET)
    script.connect()
    control = script.read(0, control=True)
    assert isinstance(control.error, ConnectionLost)


def test_a_command_that_kills_every_connection_ends_at_last() -> None:
    script = Script(QUIET).log_in()
    read = script.read(0)
    for _ in range(MAX_ATTEMPTS):
        assert not read.done
        assert len(script.take()) == 1
        cut(script)
        script.log_in()
        script.machine.resume(script.now)
    assert isinstance(read.error, TaskTimeout)
    assert script.take() == []


def test_refuse_and_resume() -> None:
    """When the policy's time is over I/O fails at once, until the session is back."""
    script = Script(QUIET).log_in()
    read, write = script.read(0), script.write(bytes(512))
    script.take()
    cut(script)
    policy = SessionFailed("too long")
    script.machine.refuse(policy)
    assert read.error is policy
    assert write.error is policy
    assert script.read(0).error is policy
    script.log_in()
    assert script.read(0).error is policy  # the barrier is not passed
    control = script.read(0, control=True)
    script.send(script.response(script.one(ScsiCommand)))
    assert control.done
    assert control.error is None
    script.machine.resume(script.now)
    later = script.read(0)
    script.send(script.response(script.one(ScsiCommand)))
    assert later.done
    assert later.error is None
    assert LUN in script.machine.tasks.unknown_outcome  # the write was never resolved


def test_refused_while_a_completion_asks_for_more() -> None:
    """A completion that submits again must not be caught in a loop or in the queue."""
    script = Script(QUIET).log_in()
    cut(script)
    more: list[object] = []
    read = script.read(0)
    original = read.task.completion

    def again(task: object) -> None:
        original(read.task)
        more.append(script.read(0).error)

    read.task.completion = again
    policy = SessionFailed("too long")
    script.machine.refuse(policy)
    assert more == [policy]
    assert not script.machine.tasks.waiting


def test_a_loss_under_the_barrier_holds_again() -> None:
    script = Script(QUIET).log_in()
    write = script.write(bytes(512))
    script.take()
    for _ in range(3):
        cut(script)
        script.log_in()
        assert script.take() == []
    assert not write.done
    script.machine.resume(script.now)
    script.send(script.response(script.one(ScsiCommand)))
    assert write.done


def test_resume_without_a_connection_sends_nothing_and_the_next_login_holds() -> None:
    script = Script(QUIET).log_in()
    write = script.write(bytes(512))
    script.take()
    cut(script)
    script.machine.resume(script.now)
    assert script.machine.data_to_send() == ()
    script.log_in()
    assert script.take() == []
    assert not write.done


@pytest.mark.parametrize(("asked", "wait"), [(None, 2.0), (0, 0.0), (7, 7.0)])
def test_the_wait_before_the_next_login(asked: int | None, wait: float) -> None:
    """RFC 7143 7.5: DefaultTime2Wait after a failure, unless the target said otherwise."""
    script = Script(QUIET).log_in()
    if asked is None:
        cut(script)
    else:
        script.send(script.async_message(3, parameter2=asked))
    assert script.ended().wait == wait
    script.log_in()
    cut(script)
    assert script.ended().wait == 2.0  # that was for once


def test_a_login_that_is_refused_while_recovering() -> None:
    script = Script(QUIET).log_in()
    read = script.read(0)
    script.take()
    cut(script)
    script.connect()
    request = script.one(LoginRequest)
    script.send(
        LoginResponse(
            initiator_task_tag=request.initiator_task_tag,
            isid=ISID,
            status_class=3,
            status_detail=2,
        )
    )
    assert isinstance(script.event(LoginEnded).error, LoginRejected)
    assert script.machine.state is SessionState.Q4_FAILED
    assert read.task.state is TaskState.SUSPENDED
    script.log_in()
    script.machine.resume(script.now)
    script.send(script.response(script.one(ScsiCommand)))
    assert read.done


def test_two_connections_at_once_are_a_mistake_of_ours() -> None:
    script = Script(QUIET).log_in()
    with pytest.raises(LocalProtocolError):
        script.connect()
    script.machine.request_logout(script.now)
    cut(script)
    with pytest.raises(LocalProtocolError):
        script.connect()
    with pytest.raises(LocalProtocolError):
        script.machine.receive_buffers()[0]


def test_full_feature_pdus_right_behind_the_login() -> None:
    """A target may send at once; both arrive in one read."""
    script = Script(QUIET)
    script.connect()
    script.send(script.login_answer(script.one(LoginRequest)))
    answer = script.login_answer(script.one(LoginRequest))
    script.send(answer, script.make(NopIn, counts=False, exp_cmd_sn=1000, max_cmd_sn=1500))
    assert script.machine.window.max_cmd_sn == 1500
    assert script.machine.tsih == TSIH


def test_a_response_before_any_command() -> None:
    script = Script(QUIET).log_in()
    script.send(script.make(ScsiResponse, counts=True, initiator_task_tag=1))
    assert not script.lost


def test_tmo_001_nothing_is_due_when_nothing_waits() -> None:
    """RFC 7143 10.3: timers run only while something waits."""
    script = Script(QUIET).log_in()
    assert script.machine.next_deadline() is None
    read = script.read(0)
    assert script.machine.next_deadline() is not None
    script.send(script.response(script.one(ScsiCommand)))
    assert read.done
    script.pass_time(2)
    assert script.machine.next_deadline() is None
    assert not [event for event in script.events if isinstance(event, ConnectionEnded)]


def test_tmo_002_commands_have_their_own_time() -> None:
    """RFC 7143 10.3: a cache may take minutes to empty; a read may not."""
    script = Script(QUIET).log_in()
    slow, fast = script.read(0, timeout=180.0), script.read(0, timeout=30.0)
    script.take()
    script.pass_time(40)
    assert slow.task.state is TaskState.SENT
    assert len(script.take()) == 1
    assert not fast.done


def test_tmo_003_a_dead_peer_is_noticed_without_its_help() -> None:
    """RFC 7143 7.14: neither end nor reset ever arrives."""
    script = Script(Settings(noop_interval=5, noop_timeout=5)).log_in()
    read = script.read(0)
    script.take()
    script.pass_time(11)
    assert script.lost
    assert not read.done
