# SPDX-License-Identifier: Apache-2.0
"""Task management functions of a session as coroutines (RFC 7143 11.5, RFC 7144 6)."""

from __future__ import annotations

from dataclasses import dataclass

import anyio

from ..errors import TaskManagementFailed
from ..pdu import FunctionResponse, TaskManagementFunction
from ..scsi import encode_lun
from ..session import ManagementTask, ScsiTask, TaskState
from .execute import timeout_of

NO_LUN = bytes(8)
_AT_THE_TARGET = (TaskState.SENT, TaskState.ABORTING)


@dataclass(frozen=True, slots=True)
class AsynchronousEvent:
    """A unit attention condition or deferred error that waits to be told (SAM-5, QUERY ASYNCHRONOUS
    EVENT): the first one. Asking does not clear it."""

    sense_key: int
    asc: int
    ascq: int
    uade_depth: int
    """How many wait: 1 one, 2 more than one, 0 the unit does not say."""

    @classmethod
    def from_additional(cls, information: int) -> AsynchronousEvent:
        """From the three bytes of Additional Response Information (RFC 7144 6.4.1)."""
        first = information >> 16
        return cls(first & 0x0F, information >> 8 & 0xFF, information & 0xFF, first >> 4 & 0x03)


class SessionManagement:
    """The task management functions of a session; the session is the only one to inherit it.

    A function that ends tasks ends them with TaskAborted when the target has answered: those of its
    scope that were sent before it. It is sent at once, past a closed command window. All of them
    raise:

        TaskManagementFailed: the target answered that it did not do it.
        ConnectionLost: no answer came; with a reset that may be its effect. The session logs in
            again by itself.
        TaskRejected: the target rejected the request.
        LocalProtocolError: one of RFC 7144 where iSCSIProtocolLevel is not 2; nothing was sent.

    ``lun`` is a number or the eight bytes, ``seconds`` the time for the answer
    (``Settings.task_management_timeout``). Cancellation: a request on its way cannot be called
    back; the target may do it or not, and what it ends ends all the same.
    """

    async def abort_task_set(self, lun: int | bytes, *, seconds: float | None = None) -> None:
        """ABORT TASK SET: end all commands of this session on a logical unit."""
        await self._done(TaskManagementFunction.ABORT_TASK_SET, encode_lun(lun), seconds)

    async def clear_aca(self, lun: int | bytes, *, seconds: float | None = None) -> None:
        """CLEAR ACA: end an auto contingent allegiance condition of a logical unit."""
        await self._done(TaskManagementFunction.CLEAR_ACA, encode_lun(lun), seconds)

    async def clear_task_set(self, lun: int | bytes, *, seconds: float | None = None) -> None:
        """CLEAR TASK SET: end all commands on a logical unit, whoever sent them."""
        await self._done(TaskManagementFunction.CLEAR_TASK_SET, encode_lun(lun), seconds)

    async def logical_unit_reset(self, lun: int | bytes, *, seconds: float | None = None) -> None:
        """LOGICAL UNIT RESET: end all commands on a logical unit, and reset it."""
        await self._done(TaskManagementFunction.LOGICAL_UNIT_RESET, encode_lun(lun), seconds)

    async def target_warm_reset(self, *, seconds: float | None = None) -> None:
        """TARGET WARM RESET: reset all logical units of the target."""
        await self._done(TaskManagementFunction.TARGET_WARM_RESET, NO_LUN, seconds)

    async def target_cold_reset(self, *, seconds: float | None = None) -> None:
        """TARGET COLD RESET: reset the target, which drops all of its connections; it may do so
        without an answer (ConnectionLost)."""
        await self._done(TaskManagementFunction.TARGET_COLD_RESET, NO_LUN, seconds)

    async def i_t_nexus_reset(self, *, seconds: float | None = None) -> None:
        """I_T NEXUS RESET (RFC 7144 6.3): end all commands of this session, as if it had been lost.
        The target may drop the connection after it, or without an answer (ConnectionLost)."""
        await self._done(TaskManagementFunction.I_T_NEXUS_RESET, NO_LUN, seconds)

    async def query_task(self, task: ScsiTask, *, seconds: float | None = None) -> bool:
        """QUERY TASK (RFC 7144 6.3): whether the target has this command (one of ``tasks()``). One
        that is not on its way is not asked for."""
        if task.state not in _AT_THE_TARGET:
            return False
        request = await self._ask(TaskManagementFunction.QUERY_TASK, task.lun, seconds, task)
        return _found(request)

    async def query_task_set(self, lun: int | bytes, *, seconds: float | None = None) -> bool:
        """QUERY TASK SET (RFC 7144 6.3): whether a logical unit has any command of this session."""
        function = TaskManagementFunction.QUERY_TASK_SET
        return _found(await self._ask(function, encode_lun(lun), seconds))

    async def query_asynchronous_event(
        self, lun: int | bytes, *, seconds: float | None = None
    ) -> AsynchronousEvent | None:
        """QUERY ASYNCHRONOUS EVENT (RFC 7144 6.3): what the next command to a logical unit would be
        told as a unit attention or deferred error; None where nothing waits."""
        function = TaskManagementFunction.QUERY_ASYNCHRONOUS_EVENT
        request = await self._ask(function, encode_lun(lun), seconds)
        return AsynchronousEvent.from_additional(request.additional) if _found(request) else None

    async def _done(
        self, function: TaskManagementFunction, lun: bytes, seconds: float | None
    ) -> None:
        request = await self._ask(function, lun, seconds)
        if request.response != FunctionResponse.FUNCTION_COMPLETE:
            raise _failure(request)

    async def _ask(
        self,
        function: TaskManagementFunction,
        lun: bytes,
        seconds: float | None,
        referenced: ScsiTask | None = None,
    ) -> ManagementTask:
        self.check_thread()  # type: ignore[attr-defined]
        answered = anyio.Event()
        settings = self.settings  # type: ignore[attr-defined]
        request = ManagementTask(
            function,
            lun,
            lambda _: answered.set(),
            referenced=referenced,
            timeout=timeout_of(seconds, settings.task_management_timeout),
        )
        self.manage(request)  # type: ignore[attr-defined]
        await answered.wait()
        if request.error is not None:
            raise request.error
        return request


def _found(request: ManagementTask) -> bool:
    """Function succeeded (RFC 7144 6.4.2): there is one. Function complete: there is none."""
    if request.response == FunctionResponse.FUNCTION_SUCCEEDED:
        return True
    if request.response == FunctionResponse.FUNCTION_COMPLETE:
        return False
    raise _failure(request)


def _failure(request: ManagementTask) -> TaskManagementFailed:
    name = request.function.name.replace("_", " ")
    try:
        reason = FunctionResponse(request.response).name.replace("_", " ").lower()
    except ValueError:
        reason = "a reserved code"
    return TaskManagementFailed(
        f"the target did not do {name}: {reason} (response {request.response}, RFC 7143 11.6.1)",
        function=request.function,
        response=request.response,
    )
