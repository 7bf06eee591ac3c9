# SPDX-License-Identifier: Apache-2.0
"""Commands and their data on the way to the target: immediate, unsolicited and solicited.

What may leave without asking is decided by InitialR2T and ImmediateData (RFC 7143 13.10, 13.11),
how much by FirstBurstLength; everything else waits for an R2T. The payload is sent from the
caller's own memory, cut into PDUs of the target's MaxRecvDataSegmentLength.
"""

from __future__ import annotations

from ..connection import ConnectionMachine
from ..errors import ProtocolError
from ..login import Parameters
from ..pdu import NO_LUN, RESERVED_TAG, ReadyToTransfer, ScsiCommand
from ..pdu.fast import DATA_OUT, F_BIT, R_BIT, SCSI_COMMAND, W_BIT
from .task import ScsiTask

MAX_SOLICITATION = 4
"""How often the data of one command may be asked for. RFC 7143 4.2.5.2 lets a target ask again for
what it lost; one that asks for ever and reads nothing would fill our memory."""

NO_MORE_DATA = 1 << 32
"""``r2t_sn`` of a task whose R2Ts are not answered any more (see fast_abort.py), and above it of
one that had such an R2T; no R2TSN is as large."""

_SIMPLE = 0x01
"""Task attribute (RFC 7143 11.3.1): the target may reorder, which is what a block device wants."""


def send_command(connection: ConnectionMachine, parameters: Parameters, task: ScsiTask) -> None:
    """Queue the SCSI Command PDU of a task that has its tag and CmdSN, and its unsolicited data."""
    data = task.data_out
    cdb = task.cdb
    length = task.expected_data_transfer_length
    immediate = unsolicited = 0
    if data is None:
        flags = F_BIT | _SIMPLE | (R_BIT if task.data_in is not None else 0)
    else:
        # RFC 7143 11.3.4: immediate data is at most min(FirstBurstLength,
        # MaxRecvDataSegmentLength).
        first_burst = min(parameters.first_burst_length, length)
        if parameters.immediate_data:
            immediate = min(first_burst, parameters.target_max_recv_data_segment_length)
        if not parameters.initial_r2t:
            # RFC 7143 4.2.5.2: if anything unsolicited follows the command, then all of it:
            # exactly min(FirstBurstLength, EDTL) in total.
            unsolicited = first_burst - immediate
        # RFC 7143 11.3.1: F is 1 "when no unsolicited SCSI Data-Out PDUs follow".
        flags = (0 if unsolicited else F_BIT) | W_BIT | _SIMPLE
    both = data is not None and task.data_in is not None
    if both:
        flags |= R_BIT
    if len(cdb) <= 16 and not both:
        header = SCSI_COMMAND.pack(
            0x01,
            flags,
            0,  # PRI: iSCSIProtocolLevel 2 only (RFC 7144 5.1.1)
            immediate,
            task.lun,
            task.initiator_task_tag,
            length,
            task.cmd_sn,
            connection.exp_stat_sn,
            cdb,
        )
        connection.send_raw(header, data[:immediate] if data is not None and immediate else b"")
    else:
        connection.send(
            ScsiCommand(
                final=bool(flags & F_BIT),
                read=bool(flags & R_BIT),
                write=bool(flags & W_BIT),
                attr=_SIMPLE,
                lun=task.lun,
                initiator_task_tag=task.initiator_task_tag,
                expected_data_transfer_length=length,
                cmd_sn=task.cmd_sn,
                cdb=cdb,
                bidirectional_read_expected_data_transfer_length=(
                    len(task.data_in) if both and task.data_in is not None else None
                ),
                data=data[:immediate] if data is not None and immediate else b"",
            )
        )
    task.queue_mark = connection.queue_mark
    if unsolicited:
        _send_data(connection, parameters, task, RESERVED_TAG, immediate, unsolicited)


def answer_r2t(
    connection: ConnectionMachine, parameters: Parameters, task: ScsiTask, r2t: ReadyToTransfer
) -> None:
    """Queue the Data-Out PDUs that an R2T asks for.

    Raises:
        ProtocolError: the R2T asks for something that this command does not have, or in a way that
            RFC 7143 11.8 forbids. Nothing outside the caller's buffer is ever read.
    """
    data = task.data_out
    length = r2t.desired_data_transfer_length
    offset = r2t.buffer_offset
    if data is None:
        raise ProtocolError(f"R2T for a command that writes nothing ({task!r})")
    if r2t.lun != task.lun:
        raise ProtocolError(f"R2T with another LUN than its command ({task!r})")
    if r2t.target_transfer_tag == RESERVED_TAG:
        raise ProtocolError("R2T with the reserved target transfer tag")
    if not 0 < length <= parameters.max_burst_length:
        raise ProtocolError(
            f"R2T for {length} bytes, MaxBurstLength is {parameters.max_burst_length}"
        )
    if offset + length > len(data):
        raise ProtocolError(f"R2T for {length} bytes at {offset} of a write of {len(data)} bytes")
    if r2t.r2t_sn != task.r2t_sn:
        if task.r2t_sn >= NO_MORE_DATA:
            task.r2t_sn = NO_MORE_DATA + 1
            return
        raise ProtocolError(f"R2TSN {r2t.r2t_sn} where {task.r2t_sn} comes next: an R2T is missing")
    task.solicited += length
    if task.solicited > MAX_SOLICITATION * len(data) + parameters.max_burst_length:
        raise ProtocolError(f"R2Ts ask for the data of one command again and again ({task!r})")
    task.r2t_sn = (task.r2t_sn + 1) & 0xFFFFFFFF
    _send_data(connection, parameters, task, r2t.target_transfer_tag, offset, length)


def _send_data(
    connection: ConnectionMachine,
    parameters: Parameters,
    task: ScsiTask,
    target_transfer_tag: int,
    offset: int,
    length: int,
) -> None:
    data = task.data_out
    assert data is not None  # noqa: S101  (for mypy: both callers have looked)
    limit = parameters.target_max_recv_data_segment_length & ~3
    end = offset + length
    data_sn = 0
    pack = DATA_OUT.pack
    # RFC 7143 11.7.4: without a Target Transfer Tag "the LUN field is reserved".
    lun = NO_LUN if target_transfer_tag == RESERVED_TAG else task.lun
    tag, exp_stat_sn = task.initiator_task_tag, connection.exp_stat_sn
    plain = not (connection.header_digest or connection.data_digest or length & 3)
    outbox = connection.outbox
    while offset < end:
        piece = limit if limit < end - offset else end - offset
        stop = offset + piece
        header = pack(
            0x05,
            F_BIT if stop == end else 0,
            piece,
            lun,
            tag,
            target_transfer_tag,
            exp_stat_sn,
            data_sn,
            offset,
        )
        if plain:
            outbox.append(header)
            outbox.append(data[offset:stop])
        else:
            connection.send_raw(header, data[offset:stop])
        offset = stop
        data_sn += 1
    task.queue_mark = connection.queue_mark
