# SPDX-License-Identifier: Apache-2.0
"""What becomes of a PDU of ours that the target rejected (RFC 7143 7.3, 11.17).

The Reject carries the header of the bad PDU; the task is found from it. A rejected request never
gets another answer. A request that counts in CmdSN and was not counted by the target leaves a gap
that no later command passes: a new session closes it, or at error recovery level 1 and above the
same command again where only its data was damaged on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConnectionLost, ProtocolError, TaskRejected
from ..pdu import InitiatorOpcode, Reject, RejectReason
from .events import Warned
from .fast_abort import go_on
from .task import ManagementTask, ScsiTask, TaskState, TextTask
from .tasks import MAX_ATTEMPTS, may_be_sent_again

if TYPE_CHECKING:
    from .machine import SessionMachine

MAX_REJECTS = 32
"""Rejects on one connection before it is given up: a target that refuses everything must not keep
us busy for ever."""

RESEND_ALLOWED = frozenset(
    {
        RejectReason.DATA_DIGEST_ERROR,
        RejectReason.IMMEDIATE_COMMAND_REJECT,
        RejectReason.LONG_OPERATION_REJECT,
    }
)
"""RFC 7143 11.17.1: the original command may be sent again; for the others that is pointless."""

_TAG = slice(16, 20)
_CMD_SN = slice(24, 28)
_I_BIT = 0x40
_OPCODE_MASK = 0x3F


def rejected(session: SessionMachine, reject: Reject) -> None:
    """Find what was rejected and end it, or send it again.

    Raises:
        ProtocolError: the Reject does not say what it is about, or there are too many.
    """
    repair = session.repair
    if repair is None or reject.reason != RejectReason.DATA_DIGEST_ERROR:
        session.rejects += 1  # digest errors are the wire's, and level 1 counts them by command
    if session.rejects > MAX_REJECTS:
        raise ProtocolError(f"the target rejected {session.rejects} PDUs of one connection")
    if reject.reason == RejectReason.WAITING_FOR_LOGOUT:
        _put_back(session, bytes(reject.data[:48]))
        return
    header = bytes(reject.data[:48])
    if len(header) < _TAG.stop:
        raise ProtocolError("Reject without the header that it is about (RFC 7143 11.17)")
    error = TaskRejected(
        f"the target rejected a PDU (reason {reject.reason:02x}h, RFC 7143 11.17.1)",
        reason=reject.reason,
    )
    opcode = header[0] & _OPCODE_MASK
    tag = int.from_bytes(header[_TAG], "big")
    if opcode == InitiatorOpcode.DATA_OUT:
        return  # RFC 7143 7.3: the command of a rejected Data-Out still gets its status
    if opcode == InitiatorOpcode.SNACK_REQUEST:
        session.emit(Warned(str(error)))
        return  # repair.py has looked at it as soon as it came
    if opcode == InitiatorOpcode.SCSI_COMMAND:
        task = session.tasks.in_flight.get(tag)
        if task is None:
            session.emit(Warned(str(error)))
        else:
            _command(session, task, reject.reason, error)
        return
    connection = session.connection
    request = session.tasks.requests.pop(tag, None)
    if isinstance(request, (ManagementTask, TextTask)):
        request.finish(error)
        if isinstance(request, ManagementTask):
            go_on(session, request.stopped)
    elif request is None:
        session.emit(Warned(str(error)))
    if reject.reason == RejectReason.NEGOTIATION_RESET and session.connection is connection:
        # RFC 7143 11.17.1 note 3: deprecated; to us the negotiation has failed.
        session.lose(ConnectionLost("the target reset the negotiation"))
    counted = not header[0] & _I_BIT and len(header) >= _CMD_SN.stop
    if session.connection is connection and counted:
        _close_gap(session, int.from_bytes(header[_CMD_SN], "big"))


def _put_back(session: SessionMachine, header: bytes) -> None:
    """The target takes nothing but a logout: what it rejected was not carried out, and goes to the
    next session. What else is under way ends with this one."""
    if header[:1] and header[0] & _OPCODE_MASK == InitiatorOpcode.SCSI_COMMAND:
        task = session.tasks.in_flight.get(int.from_bytes(header[_TAG], "big"))
        if task is not None and task.state is TaskState.SENT and task.attempts < MAX_ATTEMPTS:
            session.requeue(task)


def _command(session: SessionMachine, task: ScsiTask, reason: int, error: TaskRejected) -> None:
    connection = session.connection
    if (
        session.repair is not None
        and reason == RejectReason.DATA_DIGEST_ERROR
        and session.window.is_unacknowledged(task.cmd_sn)
    ):
        # RFC 7143 7.8: the immediate data comes with the retry, and then all the rest.
        session.repair.plug(task.cmd_sn)
        return
    task.silences += 1  # no answer either: a command that is always rejected must end
    again = reason in RESEND_ALLOWED and task.state is TaskState.SENT and may_be_sent_again(task)
    if not again:
        session.end(task, error)
    elif not session.window.is_unacknowledged(task.cmd_sn):
        session.requeue(task)
        return
    if session.connection is connection:
        # A command that is to be sent again is still in flight here, and kept by the loss.
        _close_gap(session, task.cmd_sn)


def _close_gap(session: SessionMachine, cmd_sn: int) -> None:
    if session.window.is_unacknowledged(cmd_sn):
        session.lose(ConnectionLost("a rejected command left a gap in CmdSN"))
