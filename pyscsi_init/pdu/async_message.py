# SPDX-License-Identifier: Apache-2.0
"""Asynchronous Message (RFC 7143 11.9): the target speaks without being asked.

Owns the header and the names of the events; what an event demands is decided by the session.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from .bhs import NO_LUN, RESERVED_TAG, Pdu, TargetOpcode
from .layout import (
    INITIATOR_TASK_TAG,
    LENGTHS,
    LUN,
    RESPONSE_NUMBERS,
    Layout,
    ones,
    reserved,
    uint,
)
from .scsi_response import parse_sense_segment


class AsyncEvent(IntEnum):
    """RFC 7143 11.9.1; 248 to 255 are vendor specific."""

    SCSI_ASYNC_EVENT = 0
    LOGOUT_REQUEST = 1
    CONNECTION_DROP_NOTIFICATION = 2
    SESSION_DROP_NOTIFICATION = 3
    NEGOTIATION_REQUEST = 4
    TASK_TERMINATION = 5


@dataclass(slots=True, kw_only=True)
class AsyncMessage(Pdu):
    """An event; parameter2 and parameter3 are Time2Wait and Time2Retain of the drop events."""

    opcode: ClassVar[int] = TargetOpcode.ASYNC_MESSAGE
    layout: ClassVar[Layout] = Layout(
        TargetOpcode.ASYNC_MESSAGE,
        ones(1),
        reserved(23),
        *LENGTHS,
        LUN,
        INITIATOR_TASK_TAG,
        reserved(32),
        *RESPONSE_NUMBERS,
        uint("async_event", 8),
        uint("async_vcode", 8),
        uint("parameter1", 16),
        uint("parameter2", 16),
        uint("parameter3", 16),
        reserved(32),
    )

    lun: bytes = NO_LUN
    initiator_task_tag: int = RESERVED_TAG
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    async_event: int = AsyncEvent.SCSI_ASYNC_EVENT
    async_vcode: int = 0
    parameter1: int = 0
    parameter2: int = 0
    parameter3: int = 0

    @property
    def sense(self) -> bytes:
        """The sense data of a SCSI event (RFC 7143 11.9.4); empty for every other event.

        Raises ProtocolError if its length is wrong.
        """
        if self.async_event != AsyncEvent.SCSI_ASYNC_EVENT:
            return b""
        return parse_sense_segment(self.data)[0]
