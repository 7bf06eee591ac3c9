# SPDX-License-Identifier: Apache-2.0
"""Task Management Function Request and Response (RFC 7143 11.5, 11.6; RFC 7144 6).

Owns the two headers and the names of their codes. Which function follows which is the business
of the session's abort ladder.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from .bhs import NO_LUN, RESERVED_TAG, InitiatorOpcode, Pdu, TargetOpcode
from .layout import (
    IMMEDIATE,
    INITIATOR_TASK_TAG,
    LENGTHS,
    LUN,
    REQUEST_NUMBERS,
    RESPONSE_NUMBERS,
    Layout,
    ones,
    reserved,
    uint,
)


class TaskManagementFunction(IntEnum):
    """RFC 7143 11.5.1; 9 to 12 are RFC 7144 6.3 and need iSCSIProtocolLevel 2."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    TASK_REASSIGN = 8
    QUERY_TASK = 9
    QUERY_TASK_SET = 10
    I_T_NEXUS_RESET = 11
    QUERY_ASYNCHRONOUS_EVENT = 12


class FunctionResponse(IntEnum):
    """RFC 7143 11.6.1; 7 is RFC 7144 6.4.2."""

    FUNCTION_COMPLETE = 0
    TASK_DOES_NOT_EXIST = 1
    LUN_DOES_NOT_EXIST = 2
    TASK_STILL_ALLEGIANT = 3
    TASK_ALLEGIANCE_REASSIGNMENT_NOT_SUPPORTED = 4
    TASK_MANAGEMENT_FUNCTION_NOT_SUPPORTED = 5
    FUNCTION_AUTHORIZATION_FAILED = 6
    FUNCTION_SUCCEEDED = 7
    FUNCTION_REJECTED = 255


@dataclass(slots=True, kw_only=True)
class TaskManagementRequest(Pdu):
    """Abort, reset, reassign or query."""

    opcode: ClassVar[int] = InitiatorOpcode.TASK_MANAGEMENT_REQUEST
    may_carry_data: ClassVar[bool] = False
    layout: ClassVar[Layout] = Layout(
        InitiatorOpcode.TASK_MANAGEMENT_REQUEST,
        ones(1),
        uint("function", 7),
        reserved(16),
        *LENGTHS,
        LUN,
        INITIATOR_TASK_TAG,
        uint("referenced_task_tag", 32),
        *REQUEST_NUMBERS,
        uint("ref_cmd_sn", 32),
        uint("exp_data_sn", 32),
        reserved(64),
        i_bit=IMMEDIATE,
    )

    immediate: bool = False
    function: int = 0
    lun: bytes = NO_LUN
    initiator_task_tag: int = 0
    referenced_task_tag: int = RESERVED_TAG
    cmd_sn: int = 0
    exp_stat_sn: int = 0
    ref_cmd_sn: int = 0
    exp_data_sn: int = 0


@dataclass(slots=True, kw_only=True)
class TaskManagementResponse(Pdu):
    """What became of the function."""

    opcode: ClassVar[int] = TargetOpcode.TASK_MANAGEMENT_RESPONSE
    may_carry_data: ClassVar[bool] = False
    layout: ClassVar[Layout] = Layout(
        TargetOpcode.TASK_MANAGEMENT_RESPONSE,
        ones(1),
        reserved(7),
        uint("response", 8),
        reserved(8),
        *LENGTHS,
        uint("additional_response_information", 24),
        reserved(40),
        INITIATOR_TASK_TAG,
        reserved(32),
        *RESPONSE_NUMBERS,
        reserved(96),
    )

    response: int = FunctionResponse.FUNCTION_COMPLETE
    additional_response_information: int = 0
    """RFC 7144 6.4.1; reserved, so to be ignored, below iSCSIProtocolLevel 2."""
    initiator_task_tag: int = 0
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
