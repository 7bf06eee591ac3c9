# SPDX-License-Identifier: Apache-2.0
"""The data-out of one task: immediate data, unsolicited data, and data asked for by R2T.

Owns the buffer, R2TSN and the target transfer tags of the task, and holds the initiator to what was
negotiated (RFC 7143 4.2.5.2, 11.7 and 11.8). What does not fit ends up in :attr:`Incoming.failure`;
ending the task on that account is the task's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..pdu import (
    RESERVED_TAG,
    BytesLike,
    DataOut,
    ReadyToTransfer,
    RejectReason,
    ScsiCommand,
)
from .conditions import (
    INCORRECT_AMOUNT_OF_DATA,
    INVALID_FIELD_IN_CDB,
    UNEXPECTED_UNSOLICITED_DATA,
    SenseCode,
)

if TYPE_CHECKING:
    from .session import Session

MOST_DATA_OUT = 16 << 20
"""More than any command may carry here (VPD B0h says 8 MiB); nothing is allocated beyond it."""


@dataclass(slots=True)
class Burst:
    """One R2T that is being answered."""

    offset: int
    end: int
    data_sn: int = 0


class Incoming:
    """Collects ``wanted`` bytes; what an initiator has beyond that is taken and dropped."""

    def __init__(self, session: Session, pdu: ScsiCommand, wanted: int) -> None:
        self._session = session
        self._tag = pdu.initiator_task_tag
        self._lun = pdu.lun
        self._expected = pdu.expected_data_transfer_length
        self.failure: SenseCode | None = None
        """Why the task cannot go on."""
        if wanted > MOST_DATA_OUT:
            self.failure, wanted = INVALID_FIELD_IN_CDB, 0
        self._wanted = wanted
        self.buffer = bytearray(wanted)
        self._received = 0
        self._unsolicited = pdu.write and not pdu.final
        self._unsolicited_sn = 0
        self._bursts: dict[int, Burst] = {}
        self._next_offset = 0
        self._r2t_sn = 0
        self._asked = False
        self._recovers = session.retained is not None
        self._missing: list[tuple[int, int]] = []
        """Ranges that were lost on the way and have to be asked for again."""
        self._old_tags: set[int] = set()
        """Of R2Ts that were given up: what still comes for them is dropped."""
        self.progress = 0
        """Grows with each Data-Out PDU."""
        self._take_immediate(pdu.data)

    @property
    def complete(self) -> bool:
        """True when nothing more has to come."""
        return (
            not self._unsolicited
            and not self._bursts
            and not self._missing
            and self._received >= self._wanted
        )

    @property
    def r2ts(self) -> int:
        """How many R2Ts were sent."""
        return self._r2t_sn

    def stop(self) -> None:
        """Ask for nothing and expect nothing any more."""
        self._bursts.clear()
        self._missing.clear()
        self._unsolicited = False

    def take(self, pdu: DataOut, *, damaged: bool = False) -> None:
        """Take one Data-Out PDU, or (``damaged``, at error recovery level 1) only note where it
        belongs."""
        self.progress += 1
        if self._recovers:
            self._take_or_miss(pdu, damaged)
        elif pdu.target_transfer_tag == RESERVED_TAG:
            self._take_unsolicited(pdu)
        elif (burst := self._bursts.get(pdu.target_transfer_tag)) is not None:
            self._take_solicited(pdu, burst)
        else:
            self._session.reject(pdu, RejectReason.INVALID_PDU_FIELD)

    def _take_or_miss(self, pdu: DataOut, damaged: bool) -> None:
        """As below, but what is missing is noted (RFC 7143 7.8, 7.9). Data-Out comes in the order
        of its offsets, so a gap is the range before what has come."""
        tag = pdu.target_transfer_tag
        if tag == RESERVED_TAG:
            if not self._unsolicited:
                return
            limit = min(self._session.parameters.first_burst_length, self._expected)
            burst = Burst(self._received, limit, self._unsolicited_sn)
        elif (known := self._bursts.get(tag)) is not None:
            burst = known
        else:
            if tag not in self._old_tags:
                self._session.reject(pdu, RejectReason.INVALID_PDU_FIELD)
            return
        end = pdu.buffer_offset + len(pdu.data)
        if pdu.data_sn < burst.data_sn or pdu.buffer_offset < burst.offset or end > burst.end:
            return
        if pdu.buffer_offset > burst.offset:
            self._missing.append((burst.offset, pdu.buffer_offset))
        if damaged:
            self._missing.append((pdu.buffer_offset, end))
            self._received = max(self._received, end)
        else:
            self._store(pdu.buffer_offset, pdu.data)
        burst.offset, burst.data_sn = end, pdu.data_sn + 1
        if pdu.final and end < burst.end:
            self._missing.append((end, burst.end))
            self._received = max(self._received, burst.end)
        if tag == RESERVED_TAG:
            self._unsolicited_sn = burst.data_sn
            self._unsolicited = not pdu.final
        elif pdu.final:
            del self._bursts[tag]

    def ask_anew(self) -> None:
        """Give up waiting for what was sent or asked for, and ask for all of it that is not here
        (a sequence reception timeout, or another connection)."""
        if self._unsolicited:
            self._unsolicited = False
        for tag, burst in self._bursts.items():
            self._old_tags.add(tag)
            self._missing.append((burst.offset, burst.end))
        self._bursts.clear()

    def _take_immediate(self, data: BytesLike) -> None:
        parameters = self._session.parameters
        if not len(data):
            return
        if not parameters.immediate_data or len(data) > parameters.first_burst_length:
            self.failure = UNEXPECTED_UNSOLICITED_DATA
        else:
            self._store(0, data)

    def _take_unsolicited(self, pdu: DataOut) -> None:
        parameters = self._session.parameters
        if not self._unsolicited or parameters.initial_r2t:
            self.failure = UNEXPECTED_UNSOLICITED_DATA
            return
        end = pdu.buffer_offset + len(pdu.data)
        limit = min(parameters.first_burst_length, self._expected)
        if (
            pdu.data_sn != self._unsolicited_sn
            or pdu.buffer_offset != self._received
            or end > limit
            # RFC 7143 4.2.5.2: unsolicited data that is sent at all is sent to its full length
            or (pdu.final and end != limit)
        ):
            self.failure = INCORRECT_AMOUNT_OF_DATA
            return
        self._unsolicited_sn += 1
        self._unsolicited = not pdu.final
        self._store(pdu.buffer_offset, pdu.data)

    def _take_solicited(self, pdu: DataOut, burst: Burst) -> None:
        end = burst.offset + len(pdu.data)
        if (
            pdu.data_sn != burst.data_sn
            or pdu.buffer_offset != burst.offset
            or end > burst.end
            or (pdu.final and end != burst.end)
        ):
            self.failure = INCORRECT_AMOUNT_OF_DATA
            return
        self._store(pdu.buffer_offset, pdu.data)
        burst.data_sn += 1
        burst.offset = end
        if pdu.final:
            del self._bursts[pdu.target_transfer_tag]

    def _store(self, offset: int, data: BytesLike) -> None:
        end = offset + len(data)
        if end <= self._wanted:
            self.buffer[offset:end] = data
        elif offset < self._wanted:
            self.buffer[offset:] = data[: self._wanted - offset]
        self._received = max(self._received, end)

    def ask(self) -> None:
        """Send as many R2Ts as may be outstanding."""
        if self._unsolicited:
            return
        parameters = self._session.parameters
        if not self._asked:
            self._asked = True
            self._next_offset = self._received
        while self._missing and len(self._bursts) < parameters.max_outstanding_r2t:
            offset, end = self._missing.pop(0)
            length = min(parameters.max_burst_length, end - offset)
            if offset + length < end:
                self._missing.insert(0, (offset + length, end))
            self._send_r2t(offset, length)
        while self._next_offset < self._wanted and (
            len(self._bursts) < parameters.max_outstanding_r2t
        ):
            length = min(parameters.max_burst_length, self._wanted - self._next_offset)
            self._send_r2t(self._next_offset, length)
            self._next_offset += length

    def _send_r2t(self, offset: int, length: int) -> None:
        tag = self._session.new_transfer_tag()
        self._bursts[tag] = Burst(offset, offset + length)
        self._session.send(
            ReadyToTransfer(
                lun=self._lun,
                initiator_task_tag=self._tag,
                target_transfer_tag=tag,
                r2t_sn=self._r2t_sn,
                buffer_offset=offset,
                desired_data_transfer_length=length,
            )
        )
        self._r2t_sn += 1
