# SPDX-License-Identifier: Apache-2.0
"""Reject (RFC 7143 11.17): the target hands a PDU back, its header in ``data``.

Owns the header and the names of the reasons. Which task the returned header belongs to is found
by the session.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from .bhs import RESERVED_TAG, Pdu, TargetOpcode
from .layout import INITIATOR_TASK_TAG, LENGTHS, RESPONSE_NUMBERS, Layout, ones, reserved, uint


class RejectReason(IntEnum):
    """RFC 7143 11.17.1; 0Bh (Negotiation Reset) is deprecated but may still be received."""

    DATA_DIGEST_ERROR = 0x02
    SNACK_REJECT = 0x03
    PROTOCOL_ERROR = 0x04
    COMMAND_NOT_SUPPORTED = 0x05
    IMMEDIATE_COMMAND_REJECT = 0x06
    TASK_IN_PROGRESS = 0x07
    INVALID_DATA_ACK = 0x08
    INVALID_PDU_FIELD = 0x09
    LONG_OPERATION_REJECT = 0x0A
    NEGOTIATION_RESET = 0x0B
    WAITING_FOR_LOGOUT = 0x0C


@dataclass(slots=True, kw_only=True)
class Reject(Pdu):
    """A PDU that the target did not take."""

    opcode: ClassVar[int] = TargetOpcode.REJECT
    layout: ClassVar[Layout] = Layout(
        TargetOpcode.REJECT,
        ones(1),
        reserved(7),
        uint("reason", 8),
        reserved(8),
        *LENGTHS,
        reserved(64),
        INITIATOR_TASK_TAG,
        reserved(32),
        *RESPONSE_NUMBERS,
        uint("data_sn_or_r2t_sn", 32),
        reserved(64),
    )

    reason: int = 0
    initiator_task_tag: int = RESERVED_TAG
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    data_sn_or_r2t_sn: int = 0
