# SPDX-License-Identifier: Apache-2.0
"""Text Request and Text Response (RFC 7143 11.10, 11.11).

Owns the headers. The key=value pairs in ``data`` are the login layer's to read, because a pair
may be spread over several PDUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import ProtocolError
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
    flag,
    reserved,
)


@dataclass(slots=True, kw_only=True)
class TextRequest(Pdu):
    """Keys from the initiator in full feature phase, SendTargets above all."""

    opcode: ClassVar[int] = InitiatorOpcode.TEXT_REQUEST
    layout: ClassVar[Layout] = Layout(
        InitiatorOpcode.TEXT_REQUEST,
        flag("final"),
        flag("continue_"),
        reserved(22),
        *LENGTHS,
        LUN,
        INITIATOR_TASK_TAG,
        TARGET_TRANSFER_TAG,
        *REQUEST_NUMBERS,
        reserved(128),
        i_bit=IMMEDIATE,
    )

    immediate: bool = False
    final: bool = True
    continue_: bool = False
    lun: bytes = NO_LUN
    initiator_task_tag: int = 0
    target_transfer_tag: int = RESERVED_TAG
    cmd_sn: int = 0
    exp_stat_sn: int = 0

    def check_format(self) -> None:
        # RFC 7143 11.10.2: "A Text Request with the C bit set to 1 MUST have the F bit set to 0."
        if self.continue_ and self.final:
            raise ProtocolError("Text Request with both the C and the F bit")


@dataclass(slots=True, kw_only=True)
class TextResponse(Pdu):
    """Keys from the target."""

    opcode: ClassVar[int] = TargetOpcode.TEXT_RESPONSE
    layout: ClassVar[Layout] = Layout(
        TargetOpcode.TEXT_RESPONSE,
        flag("final"),
        flag("continue_"),
        reserved(22),
        *LENGTHS,
        LUN,
        INITIATOR_TASK_TAG,
        TARGET_TRANSFER_TAG,
        *RESPONSE_NUMBERS,
        reserved(96),
    )

    final: bool = True
    continue_: bool = False
    lun: bytes = NO_LUN
    initiator_task_tag: int = 0
    target_transfer_tag: int = RESERVED_TAG
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0

    def check_format(self) -> None:
        # RFC 7143 11.11.2: "A Text Response with the C bit set to 1 MUST have the F bit set to 0."
        if self.continue_ and self.final:
            raise ProtocolError("Text Response with both the C and the F bit")
