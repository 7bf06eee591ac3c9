# SPDX-License-Identifier: Apache-2.0
"""Bytes <-> PDUs: RFC 7143 section 11, one module a clause, both directions.

A byte stream goes through a ``Framer``, its frames through ``decode_target_pdu`` (as an initiator
reads) or ``decode_initiator_pdu`` (as a target reads); ``serialize`` goes the other way. No I/O,
no state of a connection, no SCSI.
"""

from __future__ import annotations

from ..errors import ProtocolError
from .async_message import AsyncEvent, AsyncMessage
from .bhs import NO_LUN, RESERVED_TAG, InitiatorOpcode, Pdu, TargetOpcode
from .data import DataIn, DataOut
from .digest import crc32c, digest_bytes
from .framer import Frame, Framer
from .layout import BHS_LENGTH, BytesLike
from .login import LoginRequest, LoginResponse, Stage, StatusClass
from .logout import LogoutReason, LogoutRequest, LogoutResponse, LogoutResult
from .nop import NopIn, NopOut
from .r2t import ReadyToTransfer
from .reject import Reject, RejectReason
from .scsi_command import ScsiCommand, TaskAttribute
from .scsi_response import Response, ScsiResponse, build_sense_segment, parse_sense_segment
from .snack import SnackRequest, SnackType
from .task_management import (
    FunctionResponse,
    TaskManagementFunction,
    TaskManagementRequest,
    TaskManagementResponse,
)
from .text import TextRequest, TextResponse

INITIATOR_PDUS: dict[int, type[Pdu]] = {
    int(cls.opcode): cls
    for cls in (
        NopOut,
        ScsiCommand,
        TaskManagementRequest,
        LoginRequest,
        TextRequest,
        DataOut,
        LogoutRequest,
        SnackRequest,
    )
}
"""Opcode -> class of the PDUs that an initiator sends."""

TARGET_PDUS: dict[int, type[Pdu]] = {
    int(cls.opcode): cls
    for cls in (
        NopIn,
        ScsiResponse,
        TaskManagementResponse,
        LoginResponse,
        TextResponse,
        DataIn,
        LogoutResponse,
        ReadyToTransfer,
        AsyncMessage,
        Reject,
    )
}
"""Opcode -> class of the PDUs that a target sends."""

_PADS = (b"", b"\0", b"\0\0", b"\0\0\0")


def decode_target_pdu(frame: Frame) -> Pdu:
    """The PDU in a frame that a target sent.

    ``frame.data_digest_ok`` is for the caller to look at: the header of a PDU with bad data still
    counts (RFC 7143 7.8). Raises ProtocolError for a format error and for every other opcode.
    """
    return _decode(TARGET_PDUS, frame, "target")


def decode_initiator_pdu(frame: Frame) -> Pdu:
    """The PDU in a frame that an initiator sent; otherwise like `decode_target_pdu`."""
    return _decode(INITIATOR_PDUS, frame, "initiator")


def _decode(classes: dict[int, type[Pdu]], frame: Frame, sender: str) -> Pdu:
    cls = classes.get(frame.opcode)
    if cls is None:
        raise ProtocolError(f"opcode {frame.opcode:#04x} is none that an iSCSI {sender} sends")
    return cls.decode(frame.header, frame.ahs, frame.data)


def serialize(pdu: Pdu, header_digest: bool = False, data_digest: bool = False) -> list[BytesLike]:
    """The PDU as buffers to send in order; the data segment is passed on, not copied.

    Raises LocalProtocolError for a value that its field cannot hold.
    """
    header = pdu.encode()
    if header_digest:
        header += digest_bytes(header)
    data = pdu.data
    length = len(data)
    if not length:
        return [header]
    tail = _PADS[-length & 3]
    if data_digest:
        # RFC 7143 11.2.3: digests cover the padding bytes too.
        tail += digest_bytes(data, tail)
    return [header, data, tail] if tail else [header, data]


__all__ = [
    "BHS_LENGTH",
    "INITIATOR_PDUS",
    "NO_LUN",
    "RESERVED_TAG",
    "TARGET_PDUS",
    "AsyncEvent",
    "AsyncMessage",
    "BytesLike",
    "DataIn",
    "DataOut",
    "Frame",
    "Framer",
    "FunctionResponse",
    "InitiatorOpcode",
    "LoginRequest",
    "LoginResponse",
    "LogoutReason",
    "LogoutRequest",
    "LogoutResponse",
    "LogoutResult",
    "NopIn",
    "NopOut",
    "Pdu",
    "ReadyToTransfer",
    "Reject",
    "RejectReason",
    "Response",
    "ScsiCommand",
    "ScsiResponse",
    "SnackRequest",
    "SnackType",
    "Stage",
    "StatusClass",
    "TargetOpcode",
    "TaskAttribute",
    "TaskManagementFunction",
    "TaskManagementRequest",
    "TaskManagementResponse",
    "TextRequest",
    "TextResponse",
    "build_sense_segment",
    "crc32c",
    "decode_initiator_pdu",
    "decode_target_pdu",
    "digest_bytes",
    "parse_sense_segment",
    "serialize",
]
