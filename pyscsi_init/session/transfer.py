# SPDX-License-Identifier: Apache-2.0
"""What came of the data of one command when some of it is missing (RFC 7143 7.1.4.1, 7.9).

At error recovery level 1 a hole in DataSN or R2TSN is not the end of the connection: what came
after it is kept, the hole is asked for again with a SNACK, and the task goes on counting when it is
filled. ``task.data_sn`` and ``task.received`` always stand at the first hole, so whatever is
reported complete was received without one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..errors import ProtocolError
from ..login import Parameters
from ..pdu import ReadyToTransfer
from .task import ScsiTask

MAX_AHEAD = 65536
"""Data-In PDUs or R2Ts of one command beyond a hole; an honest command has far fewer."""

MAX_ASKED = 64
"""How often missing PDUs of one command are asked for before the connection is given up."""


@dataclass(slots=True)
class Acknowledgement:
    """A DataACK that the target wants (the A bit, RFC 7143 11.7.2)."""

    target_transfer_tag: int
    lun: bytes
    data_sn: int
    """Of the PDU that asked."""


@dataclass(slots=True)
class Transfer:
    """The irregular part of one task's transfer; a task without trouble has none."""

    task: ScsiTask
    ahead: dict[int, tuple[int, int]] = field(default_factory=dict)
    """DataSN -> offset and length of Data-In beyond a hole; its data is in the buffer already."""
    r2ts: dict[int, ReadyToTransfer] = field(default_factory=dict)
    """R2TSN -> R2T beyond a hole: they are answered in order (RFC 7143 11.8)."""
    asked: dict[int, float] = field(default_factory=dict)
    """DataSN or R2TSN -> when it was asked for."""
    times_asked: int = 0
    end: int = 0
    """The number after the last Data-In PDU of the command, where it is known."""
    retries: int = 0
    """How often the command itself was sent again to plug a gap in CmdSN."""
    acknowledgements: list[Acknowledgement] = field(default_factory=list)
    acknowledged: int = 0
    """All DataSN before this one were acknowledged: they must not be asked for again."""
    acknowledged_bytes: int = 0
    snack_tag: int = 0
    """Of the last R-Data SNACK; 0 where there was none (RFC 7143 11.16.5)."""
    resegmented: bool = False
    """MaxRecvDataSegmentLength changed under the task, so a plain Data SNACK is not allowed."""
    refused: bool = False
    """A SNACK was rejected: what the status says does not count (RFC 7143 7.8)."""
    reassigned: bool = False
    """The target may begin again where it likes (RFC 7143 7.2.2)."""
    proof: tuple[int, int, float] | None = None
    """DataSN, R2TSN and deadline: a sign of life is due beyond these, see continuation.py."""

    @property
    def idle(self) -> bool:
        """Nothing here that the plain path would not know."""
        return not (
            self.ahead
            or self.r2ts
            or self.asked
            or self.acknowledgements
            or self.snack_tag
            or self.refused
            or self.reassigned
        )


def place(
    parameters: Parameters, transfer: Transfer, data_sn: int, offset: int, data: memoryview
) -> bool:
    """Take the data segment of a Data-In PDU; False where it is a duplicate.

    Raises:
        ProtocolError: the command reads nothing, the data lies beyond its buffer, or is not where
            DataPDUInOrder and DataSequenceInOrder want it.
    """
    task = transfer.task
    buffer = task.data_in
    if buffer is None:
        raise ProtocolError(f"Data-In for a command that reads nothing ({task!r})")
    length = len(data)
    end = offset + length
    if end > len(buffer):
        raise ProtocolError(
            f"Data-In of {length} bytes at {offset} of a read of {len(buffer)} bytes"
        )
    if transfer.reassigned:
        transfer.reassigned = False
        if data_sn < task.data_sn and offset <= task.received:
            # RFC 7143 7.2.2: the target may send all data again, cut as it likes.
            task.data_sn, task.received = data_sn, offset
            transfer.ahead.clear()
    if data_sn < task.data_sn or data_sn in transfer.ahead:
        return False
    if transfer.snack_tag and (data_sn != task.data_sn or offset != task.received):
        # RFC 7143 11.16.3: what was sent before the R-Data SNACK arrived is not what was asked for.
        return False
    if len(transfer.ahead) >= MAX_AHEAD:
        raise ProtocolError(f"{MAX_AHEAD} Data-In PDUs of one command beyond a hole")
    buffer[offset:end] = data
    transfer.ahead[data_sn] = (offset, length)
    transfer.asked.pop(data_sn, None)
    _advance(parameters, transfer)
    return True


def _advance(parameters: Parameters, transfer: Transfer) -> None:
    task = transfer.task
    in_order = parameters.data_pdu_in_order and parameters.data_sequence_in_order
    while (piece := transfer.ahead.pop(task.data_sn, None)) is not None:
        offset, length = piece
        if offset != task.received and in_order:
            raise ProtocolError(f"Data-In at {offset} where {task.received} comes next")
        task.data_sn += 1
        task.received += length


def missing(transfer: Transfer, first: int, end: int, known: Iterable[int]) -> list[int]:
    """The numbers from ``first`` up to but not including ``end`` that are neither here (``known``)
    nor asked for.

    Raises:
        ProtocolError: more than any honest target sends for one command.
    """
    if end - first > MAX_AHEAD:
        raise ProtocolError(f"{end - first} PDUs of one command are missing ({transfer.task!r})")
    here = set(known) | transfer.asked.keys()
    return [number for number in range(first, end) if number not in here]


def note_asked(transfer: Transfer, numbers: Iterable[int], now: float) -> None:
    """These were asked for.

    Raises:
        ProtocolError: it was done too often.
    """
    transfer.times_asked += 1
    if transfer.times_asked > MAX_ASKED:
        raise ProtocolError(
            f"data of one command was asked for {MAX_ASKED} times and is still missing"
        )
    transfer.asked.update(dict.fromkeys(numbers, now))
