# SPDX-License-Identifier: Apache-2.0
"""Data and status on the way from the target, checked against the command that asked for them.

At error recovery level 0 every hole, disorder or overrun ends in session recovery (RFC 7143
7.1.4.4): a read is never reported complete with a hole in it, and nothing is written outside the
caller's buffer.
"""

from __future__ import annotations

from ..errors import ProtocolError
from ..login import Parameters
from .task import ScsiTask

GOOD = 0x00
CONDITION_MET = 0x04


def place_data(
    parameters: Parameters, task: ScsiTask, data_sn: int, offset: int, data: memoryview
) -> None:
    """Copy the data segment of a Data-In PDU to where it belongs.

    Raises:
        ProtocolError: the command reads nothing, DataSN has a gap, the data is out of order where
            DataPDUInOrder and DataSequenceInOrder are Yes, or lies beyond the buffer.
    """
    buffer = task.data_in
    if buffer is None:
        raise ProtocolError(f"Data-In for a command that reads nothing ({task!r})")
    if data_sn != task.data_sn:
        raise ProtocolError(f"DataSN {data_sn} where {task.data_sn} comes next: data is missing")
    task.data_sn = data_sn + 1
    length = len(data)
    end = offset + length
    if end > len(buffer):
        raise ProtocolError(
            f"Data-In of {length} bytes at {offset} of a read of {len(buffer)} bytes"
        )
    if (
        offset != task.received
        and parameters.data_pdu_in_order
        and parameters.data_sequence_in_order
    ):
        raise ProtocolError(f"Data-In at {offset} where {task.received} comes next")
    buffer[offset:end] = data
    task.received += length


def check_residual(task: ScsiTask, overflow: bool, underflow: bool, count: int) -> None:
    """Take the residual of a status, and hold the data that came against it (RFC 7143 11.4.5).

    Raises:
        ProtocolError: the residual is impossible, or a read that ends well has a hole.
    """
    length = task.expected_data_transfer_length
    task.residual_overflow = overflow
    task.residual_underflow = underflow
    # RFC 7143 11.4.5.1: the count has a meaning only with O or U.
    task.residual_count = count if overflow or underflow else 0
    if underflow and count > length:
        raise ProtocolError(f"residual underflow of {count} bytes in a transfer of {length}")
    if task.data_in is not None and task.status in (GOOD, CONDITION_MET):
        due = task.data_in_due
        if task.received != due:
            raise ProtocolError(
                f"status GOOD with {task.received} bytes of data where {due} were due ({task!r})"
            )
