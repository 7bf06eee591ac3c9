# SPDX-License-Identifier: Apache-2.0
"""SNACK Request (RFC 7143 11.16): ask again for numbered PDUs, or acknowledge data.

Owns the header only. It has no I bit and no CmdSN: it stands outside the command order.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from .bhs import NO_LUN, RESERVED_TAG, InitiatorOpcode, Pdu
from .layout import (
    INITIATOR_TASK_TAG,
    LENGTHS,
    LUN,
    TARGET_TRANSFER_TAG,
    Layout,
    ones,
    reserved,
    uint,
)


class SnackType(IntEnum):
    """RFC 7143 11.16.1."""

    DATA_R2T = 0
    STATUS = 1
    DATA_ACK = 2
    R_DATA = 3


@dataclass(slots=True, kw_only=True)
class SnackRequest(Pdu):
    """A run of PDUs; ``target_transfer_tag`` is the SNACK Tag of an R-Data SNACK (11.16.5)."""

    opcode: ClassVar[int] = InitiatorOpcode.SNACK_REQUEST
    may_carry_data: ClassVar[bool] = False
    layout: ClassVar[Layout] = Layout(
        InitiatorOpcode.SNACK_REQUEST,
        ones(1),
        reserved(3),
        uint("type", 4),
        reserved(16),
        *LENGTHS,
        LUN,
        INITIATOR_TASK_TAG,
        TARGET_TRANSFER_TAG,
        reserved(32),
        uint("exp_stat_sn", 32),
        reserved(64),
        uint("beg_run", 32),
        uint("run_length", 32),
    )

    type: int = SnackType.DATA_R2T
    lun: bytes = NO_LUN
    initiator_task_tag: int = RESERVED_TAG
    target_transfer_tag: int = RESERVED_TAG
    exp_stat_sn: int = 0
    beg_run: int = 0
    run_length: int = 0
