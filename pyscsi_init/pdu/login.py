# SPDX-License-Identifier: Apache-2.0
"""Login Request and Login Response (RFC 7143 11.12, 11.13).

Owns the two headers, the stage numbers and the status codes. What is said in ``data``, and which
stage may follow which, belongs to `pyscsi_init.login`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from ..errors import ProtocolError
from .bhs import InitiatorOpcode, Pdu, TargetOpcode
from .layout import (
    INITIATOR_TASK_TAG,
    LENGTHS,
    REQUEST_NUMBERS,
    RESPONSE_NUMBERS,
    Layout,
    flag,
    octets,
    ones,
    reserved,
    uint,
)

NO_ISID = bytes(6)


class Stage(IntEnum):
    """CSG and NSG, RFC 7143 11.12.3."""

    SECURITY_NEGOTIATION = 0
    LOGIN_OPERATIONAL_NEGOTIATION = 1
    FULL_FEATURE_PHASE = 3


class StatusClass(IntEnum):
    """Status-Class, RFC 7143 11.13.5."""

    SUCCESS = 0
    REDIRECTION = 1
    INITIATOR_ERROR = 2
    TARGET_ERROR = 3


@dataclass(slots=True, kw_only=True)
class LoginRequest(Pdu):
    """A step of the login phase; always immediate, so byte 0 is 43h."""

    opcode: ClassVar[int] = InitiatorOpcode.LOGIN_REQUEST
    layout: ClassVar[Layout] = Layout(
        InitiatorOpcode.LOGIN_REQUEST,
        flag("transit"),
        flag("continue_"),
        reserved(2),
        uint("current_stage", 2),
        uint("next_stage", 2),
        uint("version_max", 8),
        uint("version_min", 8),
        *LENGTHS,
        octets("isid", 6),
        uint("tsih", 16),
        INITIATOR_TASK_TAG,
        uint("cid", 16),
        reserved(16),
        *REQUEST_NUMBERS,
        reserved(128),
        i_bit=ones(1),
    )

    transit: bool = False
    continue_: bool = False
    current_stage: int = Stage.SECURITY_NEGOTIATION
    next_stage: int = 0
    version_max: int = 0
    version_min: int = 0
    isid: bytes = NO_ISID
    tsih: int = 0
    initiator_task_tag: int = 0
    cid: int = 0
    cmd_sn: int = 0
    exp_stat_sn: int = 0

    def check_format(self) -> None:
        # RFC 7143 11.12.2: "A Login Request with the C bit set to 1 MUST have the T bit set to 0."
        if self.continue_ and self.transit:
            raise ProtocolError("Login Request with both the C and the T bit")


@dataclass(slots=True, kw_only=True)
class LoginResponse(Pdu):
    """The target's answer; stat_sn, exp_cmd_sn, max_cmd_sn count only if status_class is 0."""

    opcode: ClassVar[int] = TargetOpcode.LOGIN_RESPONSE
    layout: ClassVar[Layout] = Layout(
        TargetOpcode.LOGIN_RESPONSE,
        flag("transit"),
        flag("continue_"),
        reserved(2),
        uint("current_stage", 2),
        uint("next_stage", 2),
        uint("version_max", 8),
        uint("version_active", 8),
        *LENGTHS,
        octets("isid", 6),
        uint("tsih", 16),
        INITIATOR_TASK_TAG,
        reserved(32),
        *RESPONSE_NUMBERS,
        uint("status_class", 8),
        uint("status_detail", 8),
        reserved(80),
    )

    transit: bool = False
    continue_: bool = False
    current_stage: int = Stage.SECURITY_NEGOTIATION
    next_stage: int = 0
    version_max: int = 0
    version_active: int = 0
    isid: bytes = NO_ISID
    tsih: int = 0
    initiator_task_tag: int = 0
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    status_class: int = StatusClass.SUCCESS
    status_detail: int = 0

    def check_format(self) -> None:
        # RFC 7143 11.13.7: "A Login Response with the C bit set to 1 MUST have the T bit set to 0."
        if self.continue_ and self.transit:
            raise ProtocolError("Login Response with both the C and the T bit")
