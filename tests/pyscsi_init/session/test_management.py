# SPDX-License-Identifier: Apache-2.0
"""Task management, cancellation and command time-outs (RFC 7143 4.2.3, 7.11, 11.5, 11.6)."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import ConnectionLost, OutcomeUnknown, TaskAborted, TaskTimeout
from pyscsi_init.pdu import DataOut, ScsiCommand, TaskManagementRequest
from pyscsi_init.session import Replay, TaskManagementFunction, TaskState, Warned
from pyscsi_init.session.tasks import MAX_SILENCES
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import LUN, LUN_5, RESERVED, Script

F = TaskManagementFunction
QUIET = Settings(noop_interval=0, command_timeout=30, task_management_timeout=15)


@pytest.mark.parametrize("function", list(F)[:8])
def test_tmf_001_layout(function: F) -> None:
    """RFC 7143 11.5.3, 11.5.4: the LUN where the function acts on one, the Referenced Task Tag
    where it acts on a task, else both reserved."""
    script = Script(allowed=("Legality",)).log_in()  # no task is referenced, nothing reassigned
    script.manage(function, lun=5)
    request = script.one(TaskManagementRequest)
    assert request.immediate
    assert (request.function, len(request.data)) == (function, 0)
    with_lun = function in (
        F.ABORT_TASK,
        F.ABORT_TASK_SET,
        F.CLEAR_ACA,
        F.CLEAR_TASK_SET,
        F.LOGICAL_UNIT_RESET,
    )
    assert bytes(request.lun) == (LUN_5 if with_lun else LUN)
    assert request.referenced_task_tag == RESERVED


def test_tmf_002_abort_task_names_its_task() -> None:
    """RFC 7143 11.5.4, 11.5.5: Referenced Task Tag, RefCmdSN and LUN are those of the task."""
    script = Script().log_in()
    script.read(0)
    read = script.read(512, lun=5)
    command = script.take()[1]
    script.machine.abort_task(read.task, script.now)
    request = script.one(TaskManagementRequest)
    assert request.function == F.ABORT_TASK
    assert request.referenced_task_tag == command.initiator_task_tag
    assert request.ref_cmd_sn == command.cmd_sn
    assert bytes(request.lun) == LUN_5
    assert request.initiator_task_tag != command.initiator_task_tag


@pytest.mark.parametrize("response", [0, 1])
def test_tmf_004_an_aborted_task_ends_with_the_answer(response: int) -> None:
    """RFC 7143 11.6.1: function complete, or no such task: it is over, and a late response is
    dropped."""
    script = Script().log_in()
    read = script.read(512)
    command = script.one(ScsiCommand)
    script.machine.abort_task(read.task, script.now)
    assert not read.done
    script.send(script.managed(script.one(TaskManagementRequest), response))
    assert read.done
    assert isinstance(read.error, TaskAborted)
    script.send(script.data_in(command, 0, b"z" * 512), script.response(command))
    assert read.done
    assert read.buffer == bytes(512)
    assert isinstance(script.events[-1], Warned)
    assert not script.lost


def test_tmf_004_its_own_response_may_come_first() -> None:
    """RFC 7143 4.2.3: what the target sent before the answer to the abort counts."""
    script = Script().log_in()
    read = script.read(0)
    command = script.one(ScsiCommand)
    script.machine.abort_task(read.task, script.now)
    request = script.one(TaskManagementRequest)
    script.send(script.response(command), script.managed(request, 1))
    assert read.done
    assert read.error is None


@pytest.mark.parametrize("response", [2, 5, 6, 255])
def test_tmf_004_a_refused_abort_leaves_the_task_alone(response: int) -> None:
    """RFC 7143 11.6.1: the function was not done, so the command goes on and its status comes."""
    script = Script(QUIET, InitialR2T="Yes", ImmediateData="No").log_in()
    write = script.write(bytes(512))
    command = script.one(ScsiCommand)
    script.machine.abort_task(write.task, script.now)
    script.send(script.managed(script.one(TaskManagementRequest), response))
    assert not write.done
    script.send(script.r2t(command, 0, 512))
    assert isinstance(script.one(DataOut), DataOut)
    script.send(script.response(command))
    assert write.done
    assert write.error is None


def test_tmf_004_a_refused_abort_without_status_is_bounded() -> None:
    script = Script(QUIET).log_in()
    write = script.write(bytes(512))
    script.take()
    script.machine.abort_task(write.task, script.now)
    script.send(script.managed(script.one(TaskManagementRequest), 255))
    script.pass_time(3 * QUIET.task_management_timeout)
    assert script.lost
    assert write.done
    assert isinstance(write.error, TaskAborted)
    assert LUN in script.machine.tasks.unknown_outcome


def test_a_rejected_abort_is_bounded_too() -> None:
    """The abort itself may be rejected; then only the deadline is left."""
    script = Script(QUIET).log_in()
    read = script.read(512)
    script.take()
    script.machine.abort_task(read.task, script.now)
    script.send(script.reject(script.one(TaskManagementRequest), 6))
    assert not read.done
    script.pass_time(60)
    assert read.done
    assert isinstance(read.error, TaskAborted)


@pytest.mark.quirk("Q-15")
def test_tmf_005_r2ts_of_affected_tasks_are_answered_until_the_answer() -> None:
    """RFC 7143 4.2.3.3: the target may still wait for data before it can end the tasks."""
    script = Script(InitialR2T="Yes", ImmediateData="No").log_in()
    write = script.write(bytes(4096))
    command = script.one(ScsiCommand)
    reset = script.manage(F.LOGICAL_UNIT_RESET)
    request = script.one(TaskManagementRequest)
    script.send(script.r2t(command, 0, 4096))
    assert script.take()[-1].final
    script.send(script.managed(request))
    assert reset.done
    assert write.done
    assert isinstance(write.error, TaskAborted)


@pytest.mark.parametrize(
    "function", [F.ABORT_TASK_SET, F.CLEAR_TASK_SET, F.LOGICAL_UNIT_RESET], ids=lambda f: f.name
)
def test_tmf_007_exactly_the_tasks_in_scope_end(function: F) -> None:
    """RFC 7143 4.2.3.2: the tasks of the logical unit, no others."""
    script = Script().log_in()
    here = [script.read(0) for _ in range(10)]
    there = [script.read(0, lun=5) for _ in range(10)]
    commands = script.take()
    script.manage(function)
    script.send(script.managed(script.one(TaskManagementRequest)))
    assert all(read.done and isinstance(read.error, TaskAborted) for read in here)
    assert not any(read.done for read in there)
    script.send(script.response(commands[0]))
    script.send(*(script.response(command) for command in commands[10:]))
    assert all(read.done and read.error is None for read in there)


@pytest.mark.parametrize("function", [F.TARGET_WARM_RESET, F.TARGET_COLD_RESET])
def test_tmf_008_a_target_reset_ends_all_tasks(function: F) -> None:
    """RFC 7143 11.5.1: all logical units of the target."""
    script = Script().log_in()
    reads = [script.read(0), script.read(0, lun=5)]
    script.take()
    reset = script.manage(function)
    script.send(script.managed(script.one(TaskManagementRequest)))
    assert reset.done
    assert all(read.done and isinstance(read.error, TaskAborted) for read in reads)


def test_tmf_008_cold_reset_may_end_the_connection_instead() -> None:
    script = Script().log_in()
    reset = script.manage(F.TARGET_COLD_RESET)
    script.take()
    script.machine.receive_eof(script.now)
    script.settle()
    assert reset.done
    assert isinstance(reset.error, ConnectionLost)
    assert script.ended().wait == 2
    assert script.ended().again


def test_a_failed_reset_ends_nothing() -> None:
    """RFC 7143 11.6.1: only function complete concludes the tasks."""
    script = Script().log_in()
    read = script.read(0)
    command = script.one(ScsiCommand)
    reset = script.manage(F.LOGICAL_UNIT_RESET)
    script.send(script.managed(script.one(TaskManagementRequest), 5))
    assert reset.request.response == 5
    assert not read.done
    script.send(script.response(command))
    assert read.done


def test_a_completion_may_drop_the_connection_under_a_reset() -> None:
    """Whoever hears of the first aborted task may end everything; each task is told once."""
    script = Script().log_in()
    reads = [script.read(0, replay=Replay.NEVER) for _ in range(5)]
    original = reads[0].task.completion

    def drop(task: object) -> None:
        original(reads[0].task)
        script.machine.drop_connection("test", script.now)

    reads[0].task.completion = drop
    script.take()
    reset = script.manage(F.LOGICAL_UNIT_RESET)
    script.send(script.managed(script.one(TaskManagementRequest)))
    assert all(read.done for read in reads)
    assert reset.done


def test_tmf_010_silence_escalates_to_the_session() -> None:
    """RFC 7143 7.11, 10.3: a command without status is aborted, an abort without answer ends the
    connection; all within a bounded time."""
    script = Script(QUIET).log_in()
    read = script.read(512)
    write = script.write(bytes(512), replay=Replay.NEVER)
    script.take()
    script.pass_time(29)
    assert script.take() == []
    script.pass_time(2)
    requests = script.take()
    assert [request.function for request in requests] == [F.ABORT_TASK] * 2
    assert not script.lost
    script.pass_time(16)
    assert script.lost
    assert isinstance(write.error, OutcomeUnknown)
    assert not read.done
    assert read.task.state is TaskState.SUSPENDED


def test_tmf_010_a_timed_out_command_is_sent_again_behind_the_barrier() -> None:
    """Targets exist whose ABORT TASK does not stop a write: the same command goes out again only
    on a new session, and at most so often."""
    script = Script(QUIET).log_in()
    write = script.write(b"w" * 512)
    for attempt in range(1, MAX_SILENCES + 1):
        assert script.one(ScsiCommand).data == b"w" * 512
        script.pass_time(31)
        script.send(script.managed(script.one(TaskManagementRequest)))
        if attempt < MAX_SILENCES:
            assert script.lost
            assert not write.done
            assert LUN in script.machine.tasks.unknown_outcome
            script.log_in()
            assert script.take() == []  # held back
            script.machine.resume(script.now)
    assert write.done
    assert isinstance(write.error, TaskTimeout)


def test_a_timed_out_command_that_may_not_be_repeated_ends() -> None:
    script = Script(QUIET).log_in()
    write = script.write(bytes(512), replay=Replay.NEVER)
    script.take()
    script.pass_time(31)
    script.send(script.managed(script.one(TaskManagementRequest)))
    assert isinstance(write.error, TaskTimeout)
    assert not script.lost
    assert LUN in script.machine.tasks.unknown_outcome


def test_cancelling_a_command_that_timed_out() -> None:
    """Two aborts of one task are under way; it ends once."""
    script = Script(QUIET).log_in()
    read = script.read(512)
    script.take()
    script.pass_time(31)
    first = script.one(TaskManagementRequest)
    script.machine.abort_task(read.task, script.now)
    second = script.one(TaskManagementRequest)
    script.send(script.managed(first))
    script.send(script.managed(second, 1))
    assert read.done


def test_a_connection_that_dies_under_an_abort() -> None:
    """The task was given up by its caller: it is not sent again, and its write is in doubt."""
    script = Script(QUIET).log_in()
    write = script.write(bytes(512))
    script.take()
    script.machine.abort_task(write.task, script.now)
    script.take()
    script.machine.receive_eof(script.now)
    script.settle()
    assert write.done
    assert isinstance(write.error, TaskAborted)
    script.log_in()
    script.machine.resume(script.now)
    assert script.take() == []
    assert LUN in script.machine.tasks.unknown_outcome


def test_a_connection_that_dies_under_the_abort_of_a_time_out() -> None:
    """Nobody gave this one up: it is sent again."""
    script = Script(QUIET).log_in()
    write = script.write(bytes(512))
    script.take()
    script.pass_time(31)
    script.take()
    script.machine.receive_eof(script.now)
    script.settle()
    assert not write.done
    script.log_in()
    script.machine.resume(script.now)
    command = script.one(ScsiCommand)
    script.pass_time(29)
    assert script.take() == []  # its time began anew
    script.send(script.response(command))
    assert write.done
    assert write.error is None


def test_cancelling_what_was_never_sent() -> None:
    script = Script(window=1).log_in()
    first, second = script.read(0), script.read(0)
    command = script.one(ScsiCommand)
    script.machine.abort_task(second.task, script.now)
    assert isinstance(second.error, TaskAborted)
    assert script.take() == []
    script.send(script.response(command))
    assert first.done
    assert script.take() == []
    script.machine.abort_task(first.task, script.now)  # long over
    assert script.take() == []


def test_cancelling_what_waits_for_the_session() -> None:
    """A suspended write was sent on the dead connection; the barrier must know of it."""
    script = Script().log_in()
    write = script.write(bytes(512))
    script.take()
    script.machine.receive_eof(script.now)
    assert write.task.state is TaskState.SUSPENDED
    script.machine.abort_task(write.task, script.now)
    assert isinstance(write.error, TaskAborted)
    assert LUN in script.machine.tasks.unknown_outcome


def test_the_reset_clears_the_doubt_of_its_unit_only() -> None:
    """RFC 7143 4.2.3.2: after the answer to LOGICAL UNIT RESET nothing old is under way there."""
    script = Script().log_in()
    for lun in (0, 5):
        script.write(bytes(512), lun=lun)
    script.take()
    script.machine.receive_eof(script.now)
    unknown = script.machine.tasks.unknown_outcome
    assert unknown == {LUN, LUN_5}
    script.log_in()
    script.manage(F.LOGICAL_UNIT_RESET, lun=5)
    script.send(script.managed(script.one(TaskManagementRequest), 5))
    assert unknown == {LUN, LUN_5}
    script.manage(F.LOGICAL_UNIT_RESET, lun=5)
    script.send(script.managed(script.one(TaskManagementRequest)))
    assert unknown == {LUN}
    script.manage(F.TARGET_WARM_RESET)
    script.send(script.managed(script.one(TaskManagementRequest)))
    assert unknown == set()
