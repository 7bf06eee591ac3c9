# SPDX-License-Identifier: Apache-2.0
"""Logout Request and Logout Response (RFC 7143 11.14, 11.15).

Owns the two headers and the names of their codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from .bhs import InitiatorOpcode, Pdu, TargetOpcode
from .layout import (
    IMMEDIATE,
    INITIATOR_TASK_TAG,
    LENGTHS,
    REQUEST_NUMBERS,
    RESPONSE_NUMBERS,
    Layout,
    ones,
    reserved,
    uint,
)


class LogoutReason(IntEnum):
    """RFC 7143 11.14.1."""

    CLOSE_SESSION = 0
    CLOSE_CONNECTION = 1
    REMOVE_CONNECTION_FOR_RECOVERY = 2


class LogoutResult(IntEnum):
    """RFC 7143 11.15.1."""

    CLOSED = 0
    CID_NOT_FOUND = 1
    CONNECTION_RECOVERY_NOT_SUPPORTED = 2
    CLEANUP_FAILED = 3


@dataclass(slots=True, kw_only=True)
class LogoutRequest(Pdu):
    """The initiator's farewell; ``cid`` is reserved when the session is closed."""

    opcode: ClassVar[int] = InitiatorOpcode.LOGOUT_REQUEST
    may_carry_data: ClassVar[bool] = False
    layout: ClassVar[Layout] = Layout(
        InitiatorOpcode.LOGOUT_REQUEST,
        ones(1),
        uint("reason", 7),
        reserved(16),
        *LENGTHS,
        reserved(64),
        INITIATOR_TASK_TAG,
        uint("cid", 16),
        reserved(16),
        *REQUEST_NUMBERS,
        reserved(128),
        i_bit=IMMEDIATE,
    )

    immediate: bool = False
    reason: int = LogoutReason.CLOSE_SESSION
    initiator_task_tag: int = 0
    cid: int = 0
    cmd_sn: int = 0
    exp_stat_sn: int = 0


@dataclass(slots=True, kw_only=True)
class LogoutResponse(Pdu):
    """The target's farewell; times in seconds (RFC 7143 11.15.3, 11.15.4)."""

    opcode: ClassVar[int] = TargetOpcode.LOGOUT_RESPONSE
    may_carry_data: ClassVar[bool] = False
    layout: ClassVar[Layout] = Layout(
        TargetOpcode.LOGOUT_RESPONSE,
        ones(1),
        reserved(7),
        uint("response", 8),
        reserved(8),
        *LENGTHS,
        reserved(64),
        INITIATOR_TASK_TAG,
        reserved(32),
        *RESPONSE_NUMBERS,
        reserved(32),
        uint("time2wait", 16),
        uint("time2retain", 16),
        reserved(32),
    )

    response: int = LogoutResult.CLOSED
    initiator_task_tag: int = 0
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    time2wait: int = 0
    time2retain: int = 0
