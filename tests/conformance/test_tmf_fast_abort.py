# SPDX-License-Identifier: Apache-2.0
"""Write data of tasks that are being aborted, where it stops at once (RFC 7143 4.2.3.4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pyscsi_init import Settings
from pyscsi_init.errors import TaskAborted
from pyscsi_init.pdu import DataOut, NopOut, ScsiCommand, TaskManagementRequest
from pyscsi_init.session import BidirectionalTask, Replay, TaskManagementFunction
from pyscsi_init.session.bidirectional import submit_bidirectional
from tests.pyscsi_init.session.scripted import LUN, LUN_5, RESERVED, Issued, Script

F = TaskManagementFunction
ASKED = {"InitialR2T": "Yes", "ImmediateData": "No"}
SEVERAL = [F.ABORT_TASK_SET, F.CLEAR_TASK_SET, F.LOGICAL_UNIT_RESET, F.TARGET_WARM_RESET]


def name(value: Any) -> str:
    return value.name if isinstance(value, F) else ""


FAST = [
    (
        Settings(noop_interval=0, task_reporting=("FastAbort", "ResponseFence", "RFC3720")),
        "FastAbort",
    ),
    (Settings(noop_interval=0, fast_abort=True), "RFC3720"),
]


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("function", SEVERAL, ids=name)
@pytest.mark.parametrize(("settings", "answer"), FAST, ids=["negotiated", "switch"])
def test_tmf_006_fast_abort_stops_data(
    settings: Settings, answer: str, function: F, level: int
) -> None:
    """RFC 7143 4.2.3.4: once the request is sent, no data of the tasks in its scope; those of other
    units and those sent after it go on."""
    keys = {**ASKED, "TaskReporting": answer, "ErrorRecoveryLevel": str(level)}
    script = Script(replace(settings, error_recovery_level=level), **keys).log_in()
    write, there = script.write(bytes(4096)), script.write(bytes(4096), lun=5)
    command, other = script.take()
    script.send(script.r2t(command, 0, 1024))
    assert script.one(DataOut).final
    script.manage(function)
    request = script.one(TaskManagementRequest)
    later = script.write(bytes(512))
    following = script.one(ScsiCommand)
    script.send(
        script.r2t(command, 1024, 1024, r2t_sn=1), script.r2t(command, 2048, 2048, r2t_sn=2)
    )
    assert script.take() == []
    script.send(script.r2t(following, 0, 512))
    assert script.one(DataOut).initiator_task_tag == following.initiator_task_tag
    script.send(script.r2t(other, 0, 4096))
    sent = script.take()
    assert bool(sent) is (function is not F.TARGET_WARM_RESET)
    script.send(script.managed(request))
    assert isinstance(write.error, TaskAborted)
    assert there.done is (function is F.TARGET_WARM_RESET)
    script.send(script.response(following))
    assert (later.done, later.error) == (True, None)
    assert not script.lost


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("refusal", ["response", "reject"])
def test_tmf_006_a_refused_function_leaves_the_tasks_alive(asked: bool, refusal: str) -> None:
    """RFC 7143 11.6.1: then they get their data again; where an R2T went unanswered meanwhile, only
    a new session helps."""
    script = Script(FAST[0][0], **ASKED, TaskReporting="FastAbort").log_in()
    write = script.write(b"w" * 1024)
    command = script.one(ScsiCommand)
    reset = script.manage(F.LOGICAL_UNIT_RESET)
    request = script.one(TaskManagementRequest)
    if asked:
        script.send(script.r2t(command, 0, 1024))
        assert script.take() == []
    script.send(script.managed(request, 5) if refusal == "response" else script.reject(request, 5))
    assert reset.done
    assert script.lost is asked
    if asked:
        script.log_in()
        script.machine.resume(script.now)
        command = script.one(ScsiCommand)
    script.send(script.r2t(command, 0, 1024))
    assert script.one(DataOut).data == b"w" * 1024
    script.send(script.response(command))
    assert (write.done, write.error) == (True, None)


def test_tmf_006_an_abort_of_one_task() -> None:
    """RFC 7143 4.2.3.4 is about functions that end several tasks: the data of a single one that is
    aborted is still sent, unless the setting says otherwise."""
    for settings, answer in FAST:
        script = Script(settings, **ASKED, TaskReporting=answer).log_in()
        write = script.write(bytes(1024))
        command = script.one(ScsiCommand)
        script.machine.abort_task(write.task, script.now)
        abort = script.one(TaskManagementRequest)
        script.send(script.r2t(command, 0, 1024))
        assert [type(pdu) for pdu in script.take()] == ([] if settings.fast_abort else [DataOut])
        script.send(script.managed(abort))
        assert isinstance(write.error, TaskAborted)
        assert not script.lost


@pytest.mark.conformance("ASY-007")
def test_tmf_006_tasks_that_another_initiator_ended() -> None:
    """RFC 7143 11.9.1, 4.2.3.4: Asynchronous Message 5: no data of that unit any more, a NOP-Out
    with the reserved tags and the LUN copied; the other unit goes on, and a command that may be
    repeated is, behind the barrier of a new session."""
    script = Script(FAST[0][0], **ASKED, TaskReporting="FastAbort").log_in()
    here = script.write(b"h" * 1024, lun=5)
    once = script.write(bytes(1024), replay=Replay.NEVER, lun=5)
    there = script.write(bytes(1024))
    command, _, other = script.take()
    script.send(script.async_message(5, lun=LUN_5), script.r2t(command, 0, 1024))
    answer, *aborts = script.take()
    assert isinstance(answer, NopOut)
    assert (answer.initiator_task_tag, answer.target_transfer_tag) == (RESERVED, RESERVED)
    assert bytes(answer.lun) == LUN_5
    assert answer.exp_stat_sn == script.stat_sn
    assert [abort.function for abort in aborts] == [F.ABORT_TASK] * 2
    script.send(script.r2t(other, 0, 1024))
    assert script.one(DataOut).initiator_task_tag == other.initiator_task_tag
    script.send(script.response(other), script.managed(aborts[1], 1))
    assert (there.done, there.error) == (True, None)
    assert isinstance(once.error, TaskAborted)
    script.send(script.managed(aborts[0], 1))
    assert script.lost
    assert LUN_5 in script.machine.tasks.unknown_outcome
    script.log_in()
    assert script.take() == []
    script.machine.resume(script.now)
    command = script.one(ScsiCommand)
    script.send(script.r2t(command, 0, 1024))
    assert script.one(DataOut).data == b"h" * 1024
    script.send(script.response(command))
    assert (here.done, here.error) == (True, None)


def test_tmf_006_event_5_was_not_agreed_on() -> None:
    """RFC 7143 11.9.1: it must not be used without FastAbort, and then it ends nothing."""
    script = Script(**ASKED).log_in()
    write = script.write(bytes(1024))
    command = script.one(ScsiCommand)
    script.send(script.async_message(5, lun=LUN), script.r2t(command, 0, 1024))
    assert script.one(DataOut).final
    script.send(script.response(command))
    assert (write.done, write.error) == (True, None)


@pytest.mark.parametrize("refused", [False, True])
def test_tmf_006_a_command_that_also_reads(refused: bool) -> None:
    """RFC 7143 4.2.3.4, 11.7.5: its data stops; what it reads comes on, in the numbering that the
    unanswered R2T has its place in."""
    script = Script(FAST[0][0], **ASKED, TaskReporting="FastAbort").log_in()
    issued = Issued(bytearray(1024))
    task = BidirectionalTask(
        LUN,
        b"\x53" + bytes(15),
        issued.completed,
        data_in=memoryview(issued.buffer),
        data_out=memoryview(bytes(1024)),
    )
    submit_bidirectional(script.machine, task, script.now)
    command = script.one(ScsiCommand)
    script.send(script.data_in(command, 0, b"a" * 512))
    script.manage(F.LOGICAL_UNIT_RESET)
    request = script.one(TaskManagementRequest)
    if not refused:
        script.send(script.r2t(command, 0, 1024, r2t_sn=1))
    script.send(script.data_in(command, 512, b"b" * 512, data_sn=1 if refused else 2, final=True))
    assert script.take() == []
    assert not script.lost
    script.send(script.managed(request, 5 if refused else 0))
    if refused:
        script.send(script.r2t(command, 0, 1024, r2t_sn=2))
        assert script.one(DataOut).final
        script.send(script.response(command, exp_data_sn=3))
    assert issued.done
    assert isinstance(issued.error, TaskAborted) is not refused
    assert issued.buffer == b"a" * 512 + b"b" * 512
