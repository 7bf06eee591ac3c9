# SPDX-License-Identifier: Apache-2.0
"""Rules about the data of writes: what may come unasked, and that what was asked for comes.

RFC 7143 4.2.5.2, 11.3, 11.7, 11.8, 13.10, 13.11 and 13.14.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...pdu import (
    RESERVED_TAG,
    DataIn,
    DataOut,
    Pdu,
    ReadyToTransfer,
    ScsiCommand,
    ScsiResponse,
    TaskManagementRequest,
)
from .negotiated import Negotiated
from .wire import WirePdu
from .witness import Complaints, Link, Witness

REMEMBERED = 1024
"""Writes that ended are forgotten when there are more: a late Data-Out may still name one."""


@dataclass(slots=True)
class Sequence:
    """One sequence of Data-Out PDUs: unsolicited, or the answer to an R2T."""

    start: int
    length: int
    sent: int = 0
    data_sn: int = 0
    done: bool = False


@dataclass(slots=True)
class Transfer:
    """One write."""

    command: ScsiCommand
    unsolicited: Sequence
    asked: dict[int, list[Sequence]] = field(default_factory=dict)
    order: list[Sequence] = field(default_factory=list)
    given_up: bool = False
    """It ended, or is being aborted: its sequences may end early, or not come at all."""


class Transfers(Witness):
    """The writes of one session."""

    def __init__(self) -> None:
        self._transfers: dict[int, Transfer] = {}
        self._open: list[Transfer] = []
        """Those whose unsolicited data is not complete, in the order of the commands."""

    def initiator(self, link: Link, pdu: Pdu, wire: WirePdu) -> Complaints:
        del wire
        if isinstance(pdu, ScsiCommand):
            yield from self._command(link.parameters, pdu)
        elif isinstance(pdu, DataOut):
            yield from self._data_out(pdu)
        elif isinstance(pdu, TaskManagementRequest):
            for transfer in self._transfers.values():
                transfer.given_up = True

    def _command(self, agreed: Negotiated, pdu: ScsiCommand) -> Complaints:
        immediate, whole = len(pdu.data), pdu.expected_data_transfer_length
        most = min(agreed.first_burst_length, whole)
        if (pdu.read and pdu.write) != (
            pdu.bidirectional_read_expected_data_transfer_length is not None
        ):
            yield "a bidirectional read length belongs to R=1, W=1 and to nothing else"
        if immediate and not pdu.write:
            yield "immediate data in a command that writes nothing"
        if immediate and not agreed.immediate_data:
            yield "immediate data although ImmediateData=No"
        if immediate > most:
            yield f"{immediate} bytes of immediate data, at most {most} may come unsolicited"
        if not pdu.final:
            if not pdu.write:
                yield "F is 0 in a command that writes nothing"
            if agreed.initial_r2t:
                yield "F is 0, so unsolicited data would follow, although InitialR2T=Yes"
            if immediate >= most:
                yield "F is 0 although the immediate data is all that may come unsolicited"
        self._transfers.pop(pdu.initiator_task_tag, None)
        if pdu.write:
            rest = Sequence(immediate, most - immediate, done=pdu.final)
            transfer = self._transfers[pdu.initiator_task_tag] = Transfer(pdu, rest)
            self._open = [each for each in self._open if not each.unsolicited.done]
            self._open.append(transfer)
            self._forget()

    def _forget(self) -> None:
        if len(self._transfers) > REMEMBERED:
            self._transfers = {
                tag: each for tag, each in self._transfers.items() if not each.given_up
            }

    def _data_out(self, pdu: DataOut) -> Complaints:
        transfer = self._transfers.get(pdu.initiator_task_tag)
        if transfer is None:
            yield "Data-Out for a task that writes nothing"
            return
        if pdu.target_transfer_tag == RESERVED_TAG:
            sequence: Sequence | None = transfer.unsolicited
            if transfer.unsolicited.done:
                yield "unsolicited Data-Out although the command, or the one before, said the last"
            if any(pdu.lun):
                yield "a LUN in unsolicited Data-Out, where it is reserved"
            yield from self._in_order_of_commands(transfer)
        else:
            asked = transfer.asked.get(pdu.target_transfer_tag, [])
            sequence = next((each for each in asked if not each.done), None)
            if pdu.lun != transfer.command.lun:
                yield f"Data-Out with LUN {pdu.lun.hex()}, the command's is another"
        if sequence is None:
            yield f"Data-Out with Target Transfer Tag {pdu.target_transfer_tag:08x}h: not asked for"
            return
        yield from self._part(transfer, sequence, pdu)

    def _in_order_of_commands(self, transfer: Transfer) -> Complaints:
        """RFC 7143 4.2.5.2: unsolicited data comes in the order of the commands."""
        for earlier in self._open:
            if earlier is transfer:
                return
            if not earlier.unsolicited.done and not earlier.given_up:
                yield (
                    "unsolicited data before that of the earlier task "
                    f"{earlier.command.initiator_task_tag:08x}h"
                )

    @staticmethod
    def _part(transfer: Transfer, sequence: Sequence, pdu: DataOut) -> Complaints:
        length = len(pdu.data)
        earlier = next((each for each in transfer.order if not each.done), sequence)
        if sequence is not transfer.unsolicited and sequence is not earlier:
            yield "an R2T is answered before an earlier one of the same task"
        if pdu.data_sn != sequence.data_sn:
            yield f"DataSN {pdu.data_sn}, {sequence.data_sn} comes next"
        if pdu.buffer_offset != sequence.start + sequence.sent:
            yield f"Buffer Offset {pdu.buffer_offset}, {sequence.start + sequence.sent} comes next"
        sequence.data_sn = pdu.data_sn + 1
        sequence.sent += length
        missing = sequence.length - sequence.sent
        if missing < 0:
            yield f"{-missing} bytes more than the {sequence.length} of this sequence"
        if pdu.final and missing > 0 and not transfer.given_up:
            yield f"F is set with {missing} of {sequence.length} bytes missing"
        if not pdu.final and missing == 0:
            yield "F is not set in the last PDU of the sequence"
        if not pdu.final and length % 4:
            yield f"{length} bytes in a PDU that is not the last: no whole words"
        sequence.done = pdu.final

    def target(self, link: Link, pdu: Pdu, wire: WirePdu) -> None:
        del link, wire
        transfer = self._transfers.get(getattr(pdu, "initiator_task_tag", RESERVED_TAG))
        if transfer is None:
            return
        if isinstance(pdu, ReadyToTransfer):
            sequence = Sequence(pdu.buffer_offset, pdu.desired_data_transfer_length)
            transfer.asked.setdefault(pdu.target_transfer_tag, []).append(sequence)
            transfer.order.append(sequence)
        elif isinstance(pdu, (ScsiResponse, DataIn)):
            transfer.given_up = True
