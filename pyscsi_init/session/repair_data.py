# SPDX-License-Identifier: Apache-2.0
"""Level 1 within one command: Data-In and R2T with holes, and the status that waits for them.

Whoever comes here has a task in flight and a PDU whose place in the task's own numbering has to be
found (RFC 7143 7.1.4.1, 7.8, 7.9, Appendix D.2). The numbering of the connection is repair.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..connection import ConnectionState
from ..errors import ProtocolError
from ..pdu import Frame, ReadyToTransfer, SnackType, TargetOpcode
from ..pdu.fast import A_BIT, DATA_IN, S_BIT, SCSI_RESPONSE, U_BIT
from .data_in import CONDITION_MET, GOOD, place_data
from .data_out import answer_r2t
from .deadlines import arm_scan
from .events import Warned
from .receive import HANDLERS, data_in_status
from .snack import runs, snack
from .task import ScsiTask
from .transfer import Acknowledgement, Transfer, missing, note_asked, place

if TYPE_CHECKING:
    from .repair import Repair

CHECK_CONDITION = 0x02
PROTOCOL_SERVICE_CRC_ERROR = bytes.fromhex("70000b000000000a 00000000 4705 00000000")
"""Fixed format sense: ABORTED COMMAND, the iSCSI condition of that name (RFC 7143 11.4.7.2)."""

_LAST_SNACK_TAG = 0xFFFFFFFE


def data_in_received(repair: Repair, frame: Frame, now: float) -> None:
    """A Data-In PDU whose data is good.

    Raises:
        ProtocolError: as place_data, but for holes.
    """
    session = repair.session
    header = bytes(frame.header)
    (_, flags, _, _, lun, tag, ttt, _, exp_cmd_sn, max_cmd_sn, data_sn, offset, _) = DATA_IN.unpack(
        header
    )
    session.window.update(exp_cmd_sn, max_cmd_sn)
    task = session.tasks.in_flight.get(tag)
    if task is not None:
        transfer = repair.transfers.get(tag)
        if transfer is None and (data_sn != task.data_sn or flags & (A_BIT | S_BIT) == A_BIT):
            transfer = repair.transfer(task)
        if transfer is None:
            place_data(session.parameters, task, data_sn, offset, frame.data)
        else:
            place(session.parameters, transfer, data_sn, offset, frame.data)
            if data_sn > task.data_sn and not transfer.snack_tag:
                ask_data(repair, transfer, data_sn, now)
            if flags & A_BIT and not (flags & S_BIT and data_sn < task.data_sn):
                # With its status here too, that is acknowledged at once (RFC 7143 11.7.2).
                transfer.acknowledgements.append(Acknowledgement(ttt, lun, data_sn))
            _acknowledge(repair, transfer)
            repair.deliver(now)  # it may be what a held status waits for
    elif not flags & S_BIT:
        session.emit(Warned(f"Data-In for the unknown task {tag:08x}: ignored"))
    if flags & S_BIT and session.connection is repair.connection:
        repair.status_received(TargetOpcode.DATA_IN, header, b"", now)


def data_in_bad(repair: Repair, frame: Frame, now: float) -> None:
    """A Data-In PDU with a wrong data digest: discard it and ask for it again (RFC 7143 7.8)."""
    (_, flags, _, _, _, tag, _, stat_sn, _, _, data_sn, offset, _) = DATA_IN.unpack(frame.header)
    task = repair.session.tasks.in_flight.get(tag)
    known = repair.transfers.get(tag)
    if task is None or data_sn < task.data_sn or (known is not None and data_sn in known.ahead):
        if flags & S_BIT:
            repair.bad_response(stat_sn, now)
        return
    if task.data_in is None:
        raise ProtocolError(f"Data-In for a command that reads nothing ({task!r})")
    transfer = known or repair.transfer(task)
    transfer.asked.pop(data_sn, None)
    if flags & S_BIT or offset + len(frame.data) >= len(task.data_in):
        transfer.end = data_sn + 1
    if not transfer.snack_tag or data_sn == task.data_sn:
        ask_data(repair, transfer, data_sn + 1, now)
    if flags & S_BIT:
        # Its status comes with it.
        repair.status_before(stat_sn, now)
        repair.expect_status(stat_sn, now)


def ask_data(repair: Repair, transfer: Transfer, end: int, now: float) -> None:
    """Ask for the Data-In PDUs, or R2Ts, before number ``end`` that are missing and were not asked
    for; all that is not acknowledged where they have to be cut anew (RFC 7143 11.16.3)."""
    task = transfer.task
    if transfer.resegmented:
        _ask_resegmented(repair, transfer, now)
        return
    if task.data_in is not None:
        numbers = missing(transfer, task.data_sn, end, transfer.ahead)
    else:
        numbers = missing(transfer, task.r2t_sn, end, transfer.r2ts)
    ask_again(repair, transfer, numbers, now)


def ask_again(repair: Repair, transfer: Transfer, numbers: list[int], now: float) -> None:
    """Data/R2T SNACK for these numbers.

    A run that ends with the last PDU of the command is asked for as "all from here": a target
    exists that refuses the number of the last one, and closes the connection.
    """
    if not numbers:
        return
    note_asked(transfer, numbers, now)
    for first, count in runs(numbers):
        snack(
            repair.connection,
            SnackType.DATA_R2T,
            initiator_task_tag=transfer.task.initiator_task_tag,
            beg_run=first,
            run_length=0 if first + count == transfer.end else count,
        )
    arm_scan(repair.session, now)


def _ask_resegmented(repair: Repair, transfer: Transfer, now: float) -> None:
    task = transfer.task
    task.data_sn, task.received = transfer.acknowledged, transfer.acknowledged_bytes
    transfer.ahead.clear()
    transfer.asked.clear()
    note_asked(transfer, [task.data_sn], now)
    transfer.snack_tag = transfer.snack_tag % _LAST_SNACK_TAG + 1
    snack(
        repair.connection,
        SnackType.R_DATA,
        initiator_task_tag=task.initiator_task_tag,
        target_transfer_tag=transfer.snack_tag,
    )
    arm_scan(repair.session, now)


def _acknowledge(repair: Repair, transfer: Transfer) -> None:
    """DataACK for what asked for it and has no hole before it (RFC 7143 11.16.2)."""
    task = transfer.task
    due = [each for each in transfer.acknowledgements if each.data_sn < task.data_sn]
    for each in due:
        transfer.acknowledgements.remove(each)
        transfer.acknowledged, transfer.acknowledged_bytes = task.data_sn, task.received
        snack(
            repair.connection,
            SnackType.DATA_ACK,
            target_transfer_tag=each.target_transfer_tag,
            lun=each.lun,
            beg_run=task.data_sn,
        )


def r2t_received(repair: Repair, frame: Frame, now: float) -> None:
    """An R2T: answer it, and those that waited for it; a duplicate is discarded.

    Raises:
        ProtocolError: as answer_r2t, but for holes.
    """
    session, connection = repair.session, repair.connection
    r2t = ReadyToTransfer.decode(frame.header, frame.ahs, frame.data)
    session.window.update(r2t.exp_cmd_sn, r2t.max_cmd_sn)
    task = session.tasks.in_flight.get(r2t.initiator_task_tag)
    if task is None or task.data_out is None or connection.state is ConnectionState.S6_IN_LOGOUT:
        HANDLERS[frame.opcode](session, connection, frame, now)
        return
    transfer = repair.transfers.get(r2t.initiator_task_tag)
    if transfer is not None and transfer.reassigned:
        # RFC 7143 7.2.2: its numbering may go on, or begin anew.
        transfer.reassigned = False
        transfer.r2ts.clear()
        task.r2t_sn = r2t.r2t_sn
    if r2t.r2t_sn < task.r2t_sn:
        return
    if r2t.r2t_sn > task.r2t_sn:
        transfer = transfer or repair.transfer(task)
        transfer.r2ts[r2t.r2t_sn] = r2t
        transfer.asked.pop(r2t.r2t_sn, None)
        ask_data(repair, transfer, r2t.r2t_sn, now)
        return
    following: ReadyToTransfer | None = r2t
    while following is not None:
        if transfer is not None:
            transfer.asked.pop(task.r2t_sn, None)
        answer_r2t(connection, session.parameters, task, following)
        following = transfer.r2ts.pop(task.r2t_sn, None) if transfer is not None else None


def is_complete(repair: Repair, task: ScsiTask, opcode: int, header: bytes, now: float) -> bool:
    """Whether the status in this PDU may end its task; asks for the data that is missing if not
    (RFC 7143 7.9: a status is not acknowledged before the data of its command is there)."""
    buffer = task.data_in
    transfer = repair.transfers.get(task.initiator_task_tag)
    if buffer is None or (transfer is not None and transfer.refused):
        return True
    if opcode == TargetOpcode.DATA_IN:
        (_, flags, _, _, _, _, _, _, _, _, data_sn, _, residual) = DATA_IN.unpack(header)
        response, status, tag, end = 0, GOOD, 0, data_sn + 1
    else:
        (_, flags, response, status, _, _, _, tag, _, _, _, end, _, residual) = (
            SCSI_RESPONSE.unpack(header)
        )
    if response or status not in (GOOD, CONDITION_MET):
        return True
    if transfer is not None and transfer.snack_tag != tag and transfer.snack_tag:
        return False  # RFC 7143 11.4.4: only the response with this tag counts
    due = len(buffer) - residual if flags & U_BIT else len(buffer)
    if task.received >= due or end <= task.data_sn:
        return True
    transfer = transfer or repair.transfer(task)
    transfer.end = end
    ask_data(repair, transfer, end, now)
    return False


def conclude(repair: Repair, opcode: int, header: bytes, data: bytes, now: float) -> None:
    """Hand a numbered response, whose turn it is, to its handler."""
    session, connection = repair.session, repair.connection
    if opcode == TargetOpcode.DATA_IN:
        (_, flags, status, _, _, tag, _, stat_sn, _, _, _, _, residual) = DATA_IN.unpack(header)
    elif opcode == TargetOpcode.SCSI_RESPONSE:
        (_, flags, _, status, _, _, tag, _, stat_sn, _, _, _, _, residual) = SCSI_RESPONSE.unpack(
            header
        )
    else:
        HANDLERS[opcode](session, connection, _frame(opcode, header, data), now)
        return
    task = session.tasks.in_flight.get(tag)
    transfer = repair.transfers.get(tag)
    if task is not None and transfer is not None and transfer.refused and status == GOOD:
        # RFC 7143 7.8 a.2: the status came, but data is missing that cannot be had any more.
        connection.count_stat_sn(stat_sn)
        task.status, task.sense = CHECK_CONDITION, PROTOCOL_SERVICE_CRC_ERROR
        session.end(task)
    elif opcode == TargetOpcode.DATA_IN:
        connection.count_stat_sn(stat_sn)
        if task is not None:
            data_in_status(session, task, flags, status, residual)
    else:
        if task is not None and task.data_in is not None:
            # What is missing was looked at; after a reassignment ExpDataSN may count otherwise.
            header = header[:36] + bytes(4) + header[40:]
        HANDLERS[opcode](session, connection, _frame(opcode, header, data), now)


def _frame(opcode: int, header: bytes, data: bytes) -> Frame:
    return Frame(opcode, memoryview(header), memoryview(b""), memoryview(data), True)


def snack_rejected(repair: Repair, header: bytes) -> None:
    """The target does not send again what a SNACK with this header asked for (RFC 7143 7.8).

    Raises:
        ProtocolError: it was a status, without which the connection cannot go on.
    """
    if len(header) < 20:
        raise ProtocolError("Reject of a SNACK without its header (RFC 7143 11.17)")
    kind = header[1] & 0x0F
    if kind == SnackType.DATA_ACK:
        return  # whatever it thinks of it
    if kind == SnackType.STATUS:
        raise ProtocolError("the target does not send a status again that it has sent before")
    task = repair.session.tasks.in_flight.get(int.from_bytes(header[16:20], "big"))
    if task is not None:
        transfer = repair.transfer(task)
        # Either the status says so (sense 0B/11/13), or it came already and does not count.
        transfer.refused = True
        transfer.asked.clear()
        transfer.ahead.clear()
