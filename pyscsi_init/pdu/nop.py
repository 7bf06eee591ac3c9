# SPDX-License-Identifier: Apache-2.0
"""NOP-Out and NOP-In (RFC 7143 11.18, 11.19): pings, their echoes, and bare acknowledgements.

Owns the two headers. Both tags default to the reserved value: a NOP-Out with neither tag asks
for nothing and answers nothing, it only carries ExpStatSN; a NOP-In likewise for ExpCmdSN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .bhs import NO_LUN, RESERVED_TAG, InitiatorOpcode, Pdu, TargetOpcode
from .layout import (
    IMMEDIATE,
    INITIATOR_TASK_TAG,
    LENGTHS,
    LUN,
    REQUEST_NUMBERS,
    RESPONSE_NUMBERS,
    TARGET_TRANSFER_TAG,
    Layout,
    ones,
    reserved,
)


@dataclass(slots=True, kw_only=True)
class NopOut(Pdu):
    """A ping (initiator_task_tag set), or the answer to one (target_transfer_tag set)."""

    opcode: ClassVar[int] = InitiatorOpcode.NOP_OUT
    layout: ClassVar[Layout] = Layout(
        InitiatorOpcode.NOP_OUT,
        ones(1),
        reserved(23),
        *LENGTHS,
        LUN,
        INITIATOR_TASK_TAG,
        TARGET_TRANSFER_TAG,
        *REQUEST_NUMBERS,
        reserved(128),
        i_bit=IMMEDIATE,
    )

    immediate: bool = False
    lun: bytes = NO_LUN
    initiator_task_tag: int = RESERVED_TAG
    target_transfer_tag: int = RESERVED_TAG
    cmd_sn: int = 0
    exp_stat_sn: int = 0


@dataclass(slots=True, kw_only=True)
class NopIn(Pdu):
    """A ping (target_transfer_tag set), or the answer to one (initiator_task_tag set)."""

    opcode: ClassVar[int] = TargetOpcode.NOP_IN
    layout: ClassVar[Layout] = Layout(
        TargetOpcode.NOP_IN,
        ones(1),
        reserved(23),
        *LENGTHS,
        LUN,
        INITIATOR_TASK_TAG,
        TARGET_TRANSFER_TAG,
        *RESPONSE_NUMBERS,
        reserved(96),
    )

    lun: bytes = NO_LUN
    initiator_task_tag: int = RESERVED_TAG
    target_transfer_tag: int = RESERVED_TAG
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
