# SPDX-License-Identifier: Apache-2.0
"""What each PDU of a target does in full feature phase: one handler an opcode.

``HANDLERS`` is the dispatch table; an opcode without a row is none of a target's. A handler raises
ProtocolError for what RFC 7143 forbids; the machine answers that with session recovery. The two
handlers of the data path unpack the header themselves; the rest decode the whole PDU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..connection import ConnectionMachine, ConnectionState
from ..errors import ConnectionLost, DeliveryFailure, ProtocolError
from ..pdu import (
    RESERVED_TAG,
    AsyncMessage,
    Frame,
    LogoutResponse,
    NopIn,
    NopOut,
    ReadyToTransfer,
    Reject,
    TargetOpcode,
    TaskManagementResponse,
    TextResponse,
)
from ..pdu.fast import DATA_IN, F_BIT, O_BIT, S_BIT, SCSI_RESPONSE, U_BIT
from .asked import asked_to_log_out, reject_received, unit_has_moved
from .bidirectional import BidirectionalTask
from .data_in import GOOD, check_residual, place_data
from .data_out import answer_r2t
from .events import AsyncEventReceived, Warned
from .fast_abort import FAST_ABORT, tasks_terminated
from .task import ManagementTask, ScsiTask, TextTask
from .tasks import Ping
from .text import take_declared, text_received

if TYPE_CHECKING:
    from .machine import SessionMachine

Handler = Callable[["SessionMachine", ConnectionMachine, Frame, float], None]

_CHECK_CONDITION = 0x02
NO_UNIT = b"\xff" * 8
"""SAM-5: the logical unit is not specified. RFC 7143 11.19 wants one to be named in a ping."""
LAST_LOGOUT_RESPONSE = 3
"""RFC 7143 11.15.1: the codes above it are reserved."""


def _require_data(frame: Frame) -> memoryview:
    if not frame.data_digest_ok:
        # Within-command recovery (RFC 7143 7.8) would ask for this PDU again; level 0 cannot.
        raise ProtocolError(f"data digest error in a PDU with opcode {frame.opcode:02x}h")
    return frame.data


def _data_in(
    session: SessionMachine,
    connection: ConnectionMachine,
    frame: Frame,
    now: float,  # noqa: ARG001
) -> None:
    (_, flags, status, _, _, tag, _, stat_sn, exp_cmd_sn, max_cmd_sn, data_sn, offset, residual) = (
        DATA_IN.unpack(frame.header)
    )
    data = _require_data(frame)
    session.window.update(exp_cmd_sn, max_cmd_sn)
    has_status = flags & S_BIT
    if has_status and not connection.count_stat_sn(stat_sn):
        return
    task = session.tasks.in_flight.get(tag)
    if task is None:
        session.emit(Warned(f"Data-In for the unknown task {tag:08x}: ignored"))
        return
    place_data(session.parameters, task, data_sn, offset, data)
    if has_status:
        data_in_status(session, task, flags, status, residual)


def data_in_status(
    session: SessionMachine, task: ScsiTask, flags: int, status: int, residual: int
) -> None:
    """End a task whose last Data-In PDU brought its status.

    Raises:
        ProtocolError: a combination that RFC 7143 11.7.3 forbids, or data is missing.
    """
    if not flags & F_BIT:
        raise ProtocolError("Data-In with the S bit but without the F bit (RFC 7143 11.7.3)")
    if status == _CHECK_CONDITION:
        # RFC 7143 11.7.3: only a status that is no exception may come with Data-In.
        raise ProtocolError("Data-In with CHECK CONDITION, which needs a SCSI Response")
    if task.data_out is not None:
        raise ProtocolError("Data-In with the status of a bidirectional command (RFC 7143 11.7.3)")
    overflow, underflow = bool(flags & O_BIT), bool(flags & U_BIT)
    if overflow and underflow:
        raise ProtocolError("Data-In with both the O and the U bit (RFC 7143 11.4.1)")
    task.status = status
    check_residual(task, overflow, underflow, residual)
    session.end(task)


def data_in_place(
    session: SessionMachine,
    connection: ConnectionMachine,
    task: ScsiTask,
    header: tuple[int, ...],
) -> None:
    """The rest of a Data-In whose data was received where it belongs, and whose header was found
    in order before: count it, and end the task where it brought the status GOOD.

    Raises:
        ProtocolError: the numbers cannot be (see :class:`CommandWindow`).
    """
    length, last, stat_sn, exp_cmd_sn, max_cmd_sn = header
    session.window.update(exp_cmd_sn, max_cmd_sn)
    task.data_sn += 1
    task.received += length
    if last and connection.count_stat_sn(stat_sn):
        task.status = GOOD
        session.end(task)


def _scsi_response(
    session: SessionMachine,
    connection: ConnectionMachine,
    frame: Frame,
    now: float,  # noqa: ARG001
) -> None:
    (
        _,
        flags,
        response,
        status,
        _,
        _,
        tag,
        _,
        stat_sn,
        exp_cmd_sn,
        max_cmd_sn,
        exp_data_sn,
        bidi_residual,
        residual,
    ) = SCSI_RESPONSE.unpack(frame.header)
    data = _require_data(frame)
    session.window.update(exp_cmd_sn, max_cmd_sn)
    if not connection.count_stat_sn(stat_sn):
        return
    task = session.tasks.in_flight.get(tag)
    if task is None:
        session.emit(Warned(f"SCSI Response for the unknown task {tag:08x}: ignored"))
        return
    if response:
        if 0x02 <= response <= 0x7F:
            raise ProtocolError(f"SCSI Response with the reserved response code {response:02x}h")
        if task.modifies:
            session.tasks.unknown_outcome.add(task.lun)
        session.end(
            task,
            DeliveryFailure(
                f"the target could not carry out command {task.cdb[0]:02x}h "
                f"(iSCSI response {response:02x}h)",
                response=response,
            ),
        )
        return
    overflow, underflow = bool(flags & O_BIT), bool(flags & U_BIT)
    if overflow and underflow:
        raise ProtocolError("SCSI Response with both the O and the U bit (RFC 7143 11.4.1)")
    # RFC 7143 11.4.8 counts Data-In only; RFC 3720 counted R2T too, so writes are not checked.
    if task.data_in is not None and status != _CHECK_CONDITION and exp_data_sn > task.data_sn:
        raise ProtocolError(
            f"status with ExpDataSN {exp_data_sn} after {task.data_sn} Data-In PDUs: data missing"
        )
    task.status = status
    task.sense = b""
    if status == _CHECK_CONDITION:
        if len(data) < 2:
            raise ProtocolError("CHECK CONDITION without sense data (RFC 7143 11.4.7)")
        length = int.from_bytes(data[:2], "big")
        if length > len(data) - 2:
            raise ProtocolError(f"SenseLength {length} in a data segment of {len(data)} bytes")
        task.sense = bytes(data[2 : 2 + length])
        if unit_has_moved(connection, task):
            session.requeue(task)
            return
    if isinstance(task, BidirectionalTask):
        task.take_residual(flags, bidi_residual)
    check_residual(task, overflow, underflow, residual)
    session.end(task)


def _r2t(
    session: SessionMachine,
    connection: ConnectionMachine,
    frame: Frame,
    now: float,  # noqa: ARG001
) -> None:
    r2t = ReadyToTransfer.decode(frame.header, frame.ahs, frame.data)
    session.window.update(r2t.exp_cmd_sn, r2t.max_cmd_sn)
    task = session.tasks.in_flight.get(r2t.initiator_task_tag)
    if task is None:
        # RFC 7143 11.4.2: a command may have ended while R2Ts of it were on their way.
        session.emit(Warned(f"R2T for the finished task {r2t.initiator_task_tag:08x}: ignored"))
        return
    if connection.state is ConnectionState.S6_IN_LOGOUT:
        return  # RFC 7143 11.14: the logout ends every task, and nothing follows it
    answer_r2t(connection, session.parameters, task, r2t)


def _nop_in(
    session: SessionMachine,
    connection: ConnectionMachine,
    frame: Frame,
    now: float,  # noqa: ARG001
) -> None:
    nop = NopIn.decode(frame.header, frame.ahs, _require_data(frame))
    session.window.update(nop.exp_cmd_sn, nop.max_cmd_sn)
    if nop.initiator_task_tag != RESERVED_TAG:
        if nop.target_transfer_tag != RESERVED_TAG:
            raise ProtocolError("NOP-In with both tags valid (RFC 7143 11.19)")
        if connection.count_stat_sn(nop.stat_sn):
            request = session.tasks.requests.get(nop.initiator_task_tag)
            if isinstance(request, Ping):
                del session.tasks.requests[nop.initiator_task_tag]
                if len(nop.data):
                    session.emit(Warned("the answer to a ping has data, which our pings have not"))
            elif request is not None:
                raise ProtocolError("NOP-In with the tag of a request that is no NOP-Out")
        return
    if session.repair is None:  # which has asked for what is missing
        connection.check_stat_sn(nop.stat_sn)
    if nop.target_transfer_tag == RESERVED_TAG:
        return  # only the window was to be told
    if len(nop.data):
        raise ProtocolError("unsolicited NOP-In with data (RFC 7143 11.19)")
    if nop.lun == NO_UNIT:
        raise ProtocolError("NOP-In with a Target Transfer Tag and a LUN that names no unit")
    if connection.state is ConnectionState.S6_IN_LOGOUT:
        return  # nothing follows the logout
    connection.reply(
        NopOut(
            immediate=True,
            lun=nop.lun,
            initiator_task_tag=RESERVED_TAG,
            target_transfer_tag=nop.target_transfer_tag,
            cmd_sn=session.window.cmd_sn,
        )
    )


def _task_management(
    session: SessionMachine,
    connection: ConnectionMachine,
    frame: Frame,
    now: float,  # noqa: ARG001
) -> None:
    answer = TaskManagementResponse.decode(frame.header, frame.ahs, frame.data)
    session.window.update(answer.exp_cmd_sn, answer.max_cmd_sn)
    if not connection.count_stat_sn(answer.stat_sn):
        return
    request = session.tasks.requests.get(answer.initiator_task_tag)
    if not isinstance(request, ManagementTask):
        session.emit(Warned(f"response to the unknown request {answer.initiator_task_tag:08x}"))
        return
    level_2 = session.parameters.iscsi_protocol_level >= 2
    if (0x08 if level_2 else 0x07) <= answer.response <= 0xFE:
        raise ProtocolError(
            f"task management response with the reserved code {answer.response:02x}h"
        )
    del session.tasks.requests[answer.initiator_task_tag]
    request.response = answer.response
    if level_2:  # RFC 7144 6.4.1; reserved, so not looked at, below
        request.additional = answer.additional_response_information
    session.conclude(request)


def _text(
    session: SessionMachine,
    connection: ConnectionMachine,
    frame: Frame,
    now: float,  # noqa: ARG001
) -> None:
    answer = TextResponse.decode(frame.header, frame.ahs, _require_data(frame))
    session.window.update(answer.exp_cmd_sn, answer.max_cmd_sn)
    if not connection.count_stat_sn(answer.stat_sn):
        return
    request = session.tasks.requests.get(answer.initiator_task_tag)
    if not isinstance(request, TextTask):
        raise ProtocolError(f"text response for the unknown task {answer.initiator_task_tag:08x}")
    if connection.state is ConnectionState.S6_IN_LOGOUT:
        return  # the rest of the exchange would follow the logout
    if text_received(connection, session.window, request, answer):
        del session.tasks.requests[answer.initiator_task_tag]
        take_declared(session, connection, request)
        request.finish()


def _logout(
    session: SessionMachine,
    connection: ConnectionMachine,
    frame: Frame,
    now: float,  # noqa: ARG001
) -> None:
    answer = LogoutResponse.decode(frame.header, frame.ahs, frame.data)
    session.window.update(answer.exp_cmd_sn, answer.max_cmd_sn)
    connection.count_stat_sn(answer.stat_sn)
    if connection.state is not ConnectionState.S6_IN_LOGOUT:
        raise ProtocolError("logout response without a logout request")
    if answer.response > LAST_LOGOUT_RESPONSE:
        raise ProtocolError(f"logout response with the reserved code {answer.response:02x}h")
    if answer.response:
        session.wait = answer.time2wait
        session.lose(
            ConnectionLost(f"the target refused the logout (response {answer.response:02x}h)")
        )
        return
    session.wait = answer.time2wait
    session.logout_answered()


def _async_message(
    session: SessionMachine, connection: ConnectionMachine, frame: Frame, now: float
) -> None:
    message = AsyncMessage.decode(frame.header, frame.ahs, _require_data(frame))
    session.window.update(message.exp_cmd_sn, message.max_cmd_sn)
    if not connection.count_stat_sn(message.stat_sn):
        return
    session.deadlines_moved |= connection.acknowledge_later(now)
    event = message.async_event
    if event == 0 or event >= 248:
        data = bytes(message.data)
        length = int.from_bytes(data[:2], "big") if event == 0 else 0
        session.emit(AsyncEventReceived(event, message.lun, data[2 : 2 + length]))
    elif event == 1:
        asked_to_log_out(session, connection, message.parameter3, now)
    elif event == 2 and message.parameter1 != connection.cid:
        session.emit(Warned(f"the target drops connection {message.parameter1}, which is not ours"))
    elif event in (2, 3):
        # RFC 7143 11.9.1: the time to wait before the next login, and then to keep the tasks.
        session.wait, session.retain = message.parameter2, message.parameter3
        session.lose(ConnectionLost("the target announced that it drops the connection"), now)
    elif event == 4:
        # RFC 7143 11.9.1: a text request, or a logout, within Parameter3 seconds. There is nothing
        # that we would change, so the request is an empty one.
        session.request_text(TextTask([], lambda _: None), now)
    elif event == 5 and session.parameters.task_reporting == FAST_ABORT:
        tasks_terminated(session, connection, message.lun, now)
    else:
        session.emit(Warned(f"asynchronous message with the unknown event {event}: ignored"))


def _reject(
    session: SessionMachine, connection: ConnectionMachine, frame: Frame, now: float
) -> None:
    reject = Reject.decode(frame.header, frame.ahs, _require_data(frame))
    session.window.update(reject.exp_cmd_sn, reject.max_cmd_sn)
    if connection.count_stat_sn(reject.stat_sn):
        session.deadlines_moved |= connection.acknowledge_later(now)
        reject_received(session, connection, reject, now)


HANDLERS: dict[int, Handler] = {
    TargetOpcode.NOP_IN: _nop_in,
    TargetOpcode.SCSI_RESPONSE: _scsi_response,
    TargetOpcode.TASK_MANAGEMENT_RESPONSE: _task_management,
    TargetOpcode.TEXT_RESPONSE: _text,
    TargetOpcode.DATA_IN: _data_in,
    TargetOpcode.LOGOUT_RESPONSE: _logout,
    TargetOpcode.READY_TO_TRANSFER: _r2t,
    TargetOpcode.ASYNC_MESSAGE: _async_message,
    TargetOpcode.REJECT: _reject,
}
"""Opcode -> handler, all of them legal in full feature phase only."""


def receive(
    session: SessionMachine, connection: ConnectionMachine, frame: Frame, now: float
) -> None:
    """Handle one PDU of full feature phase.

    Raises:
        ProtocolError: RFC 7143 forbids it here.
    """
    handler = HANDLERS.get(frame.opcode)
    if handler is None:
        raise ProtocolError(f"opcode {frame.opcode:02x}h is none of a target's")
    handler(session, connection, frame, now)
