# SPDX-License-Identifier: Apache-2.0
"""What a target has sent and may be asked for again (RFC 7143 11.16), at error recovery level 1.

Owns the copies of Data-In, R2T and numbered responses of one connection, until ExpStatSN or a
DataACK acknowledges them, and answers SNACK from them. An answer is an exact replica but for
ExpCmdSN and MaxCmdSN; only an R-Data SNACK has the data cut anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..pdu import (
    DataIn,
    Pdu,
    ReadyToTransfer,
    RejectReason,
    ScsiResponse,
    SnackRequest,
    SnackType,
)
from ..serial import serial_add, serial_lt

if TYPE_CHECKING:
    from .session import Session


@dataclass(slots=True)
class Sent:
    """What was sent for one task."""

    data_in: dict[int, DataIn] = field(default_factory=dict)
    r2ts: dict[int, ReadyToTransfer] = field(default_factory=dict)
    acknowledged: int = 0
    """DataSN before which everything was acknowledged."""
    stat_sn: int | None = None


class Retained:
    """The unacknowledged PDUs of one connection."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._exp_stat_sn = session.stat_sn
        self.statuses: dict[int, Pdu] = {}
        self.tasks: dict[int, Sent] = {}

    def note(self, pdu: Pdu, numbered: bool) -> None:
        """A PDU leaves, or would leave; ``numbered`` if it has a StatSN of its own."""
        tag = getattr(pdu, "initiator_task_tag", 0)
        if isinstance(pdu, DataIn):
            self.tasks.setdefault(tag, Sent()).data_in[pdu.data_sn] = pdu
        elif isinstance(pdu, ReadyToTransfer):
            self.tasks.setdefault(tag, Sent()).r2ts[pdu.r2t_sn] = pdu
        if numbered:
            stat_sn: int = pdu.stat_sn  # type: ignore[attr-defined]
            self.statuses[stat_sn] = pdu
            if isinstance(pdu, (DataIn, ScsiResponse)) and tag in self.tasks:
                self.tasks[tag].stat_sn = stat_sn

    def acknowledge(self, exp_stat_sn: int) -> None:
        """All responses before this one have arrived, and all data of their tasks."""
        if not serial_lt(self._exp_stat_sn, exp_stat_sn):
            return
        self._exp_stat_sn = exp_stat_sn
        for stat_sn in [each for each in self.statuses if serial_lt(each, exp_stat_sn)]:
            pdu = self.statuses.pop(stat_sn)
            if isinstance(pdu, (DataIn, ScsiResponse)):
                self.tasks.pop(pdu.initiator_task_tag, None)
                self._session.answered.pop(pdu.initiator_task_tag, None)

    def snack(self, pdu: SnackRequest, header: bytes) -> None:
        """Send again what is asked for, or reject the request."""
        if pdu.type == SnackType.STATUS:
            answered = self._status(pdu)
        elif pdu.type == SnackType.DATA_ACK:
            answered = self._data_ack(pdu)
        else:
            sent = self.tasks.get(pdu.initiator_task_tag)
            if sent is None:
                answered = False
            elif pdu.type == SnackType.DATA_R2T:
                answered = self._data(pdu, sent)
            else:
                answered = self._resegmented(pdu, sent)
        if not answered:
            # RFC 7143 11.16: what was not sent, or was acknowledged, is a protocol error.
            self._session.reject_header(header, RejectReason.PROTOCOL_ERROR)

    def _status(self, pdu: SnackRequest) -> bool:
        first = pdu.beg_run
        if not first and not pdu.run_length:
            first = self._exp_stat_sn
        elif serial_lt(first, self._exp_stat_sn):
            return False
        stat_sn, count = first, 0
        # RFC 7143 Appendix D.3.3: a run that was not sent yet is silently ignored.
        while stat_sn in self.statuses and (not pdu.run_length or count < pdu.run_length):
            self._session.resend(self.statuses[stat_sn])
            stat_sn, count = serial_add(stat_sn, 1), count + 1
        return True

    def _data(self, pdu: SnackRequest, sent: Sent) -> bool:
        copies: dict[int, Pdu] = {**(sent.data_in or sent.r2ts)}
        first = pdu.beg_run
        if not first and not pdu.run_length:
            first = sent.acknowledged
        last = max(copies, default=-1)
        stop = first + pdu.run_length if pdu.run_length else last + 1
        if first < sent.acknowledged or first > last or stop > last + 1:
            return False
        for number in range(first, stop):
            self._session.resend(copies[number])
        return True

    def _data_ack(self, pdu: SnackRequest) -> bool:
        for sent in self.tasks.values():
            asked = [
                each.data_sn
                for each in sent.data_in.values()
                if each.acknowledge and each.target_transfer_tag == pdu.target_transfer_tag
            ]
            if asked and pdu.beg_run > asked[0]:
                sent.acknowledged = max(sent.acknowledged, pdu.beg_run)
                return True
        return False

    def _resegmented(self, pdu: SnackRequest, sent: Sent) -> bool:
        session = self._session
        rest = [sent.data_in[each] for each in sorted(sent.data_in) if each >= sent.acknowledged]
        if sent.stat_sn is None or pdu.beg_run or pdu.run_length:
            return False
        status = self.statuses[sent.stat_sn]
        for each in rest:
            del sent.data_in[each.data_sn]
        data = b"".join(bytes(each.data) for each in rest)
        offset = rest[0].buffer_offset if rest else 0
        size = session.parameters.initiator_max_recv_data_segment_length
        data_sn = sent.acknowledged
        for start in range(0, len(data), size):
            piece = DataIn(
                initiator_task_tag=pdu.initiator_task_tag,
                data_sn=data_sn,
                buffer_offset=offset + start,
                final=start + size >= len(data),
                data=data[start : start + size],
            )
            self.note(piece, numbered=False)
            session.resend(piece)
            data_sn += 1
        response = ScsiResponse(
            initiator_task_tag=pdu.initiator_task_tag,
            snack_tag=pdu.target_transfer_tag,
            stat_sn=sent.stat_sn,
            exp_data_sn=data_sn,
            status=getattr(status, "status", 0),
            residual_overflow=getattr(status, "residual_overflow", False),
            residual_underflow=getattr(status, "residual_underflow", False),
            residual_count=getattr(status, "residual_count", 0),
            data=b"" if isinstance(status, DataIn) else status.data,
        )
        self.statuses[sent.stat_sn] = response
        session.resend(response)
        return True
