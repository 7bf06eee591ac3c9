# SPDX-License-Identifier: Apache-2.0
"""Sense data (SPC-4 4.5): why a command ended with CHECK CONDITION.

Two formats carry the same facts: fixed (70h, 71h for a deferred error) and descriptor (72h, 73h).
Both are read into one :class:`Sense`. Sense data is the explanation of a failure, so an explanation
that is short, broken, vendor specific or missing must not hide the failure: ``parse_sense`` reads
what is there and never raises. What to do about a sense is decided in sense_actions.py.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from ..errors import LocalProtocolError
from .asc import sense_text
from .layout import BytesLike, Layout, flag, octets, reserved, uint


class SenseKey(enum.IntEnum):
    """SPC-4 table 48."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    VENDOR_SPECIFIC = 0x9
    COPY_ABORTED = 0xA
    ABORTED_COMMAND = 0xB
    VOLUME_OVERFLOW = 0xD
    MISCOMPARE = 0xE
    COMPLETED = 0xF


FIXED_CURRENT, FIXED_DEFERRED = 0x70, 0x71
DESCRIPTOR_CURRENT, DESCRIPTOR_DEFERRED = 0x72, 0x73

_FIXED = Layout(
    "fixed format sense data",
    flag("valid"),
    uint("response_code", 7),
    reserved(8),
    flag("filemark"),
    flag("end_of_medium"),
    flag("incorrect_length"),
    reserved(1),
    uint("sense_key", 4),
    uint("information", 32),
    uint("additional_sense_length", 8),
    uint("command_specific_information", 32),
    uint("asc", 8),
    uint("ascq", 8),
    uint("field_replaceable_unit_code", 8),
    flag("sksv"),
    uint("sense_key_specific", 23),
)
_HEADER_LENGTH = 8
"""Both formats: ADDITIONAL SENSE LENGTH is byte 7 and counts from byte 8."""

_DESCRIPTOR_HEADER = Layout(
    "descriptor format sense data",
    reserved(1),
    uint("response_code", 7),
    reserved(4),
    uint("sense_key", 4),
    uint("asc", 8),
    uint("ascq", 8),
    reserved(24),
    uint("additional_sense_length", 8),
)
_INFORMATION, _COMMAND_SPECIFIC, _SENSE_KEY_SPECIFIC, _FRU, _STREAM, _BLOCK = range(6)
_DESCRIPTORS: dict[int, Layout] = {
    _INFORMATION: Layout(
        "the information descriptor",
        octets("head", 2),
        flag("valid"),
        reserved(15),
        uint("information", 64),
    ),
    _COMMAND_SPECIFIC: Layout(
        "the command specific descriptor",
        octets("head", 2),
        reserved(16),
        uint("command_specific_information", 64),
    ),
    _SENSE_KEY_SPECIFIC: Layout(
        "the sense key specific descriptor",
        octets("head", 2),
        reserved(16),
        flag("sksv"),
        uint("sense_key_specific", 23),
        reserved(8),
    ),
    _FRU: Layout(
        "the field replaceable unit descriptor",
        octets("head", 2),
        reserved(8),
        uint("field_replaceable_unit_code", 8),
    ),
    _STREAM: Layout(
        "the stream commands descriptor",
        octets("head", 2),
        reserved(8),
        flag("filemark"),
        flag("end_of_medium"),
        flag("incorrect_length"),
        reserved(5),
    ),
    _BLOCK: Layout(
        "the block commands descriptor",
        octets("head", 2),
        reserved(10),
        flag("incorrect_length"),
        reserved(5),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sense:
    """What sense data says. A value that is absent or not valid is None."""

    response_code: int = 0
    """70h..73h; 7Fh is vendor specific; 0 where there was no sense data."""
    deferred: bool = False
    """The error belongs to an earlier command; this one was not executed (SPC-4 4.5.7)."""
    sense_key: int = 0
    asc: int = 0
    ascq: int = 0
    information: int | None = None
    """For a medium error the first bad LBA, for a miscompare the offset of the difference."""
    command_specific_information: int | None = None
    sense_key_specific: int | None = None
    """23 bits, without SKSV."""
    field_replaceable_unit_code: int = 0
    incorrect_length: bool = False

    @property
    def known(self) -> bool:
        """There was sense data in a format that SPC-4 defines."""
        return FIXED_CURRENT <= self.response_code <= DESCRIPTOR_DEFERRED

    @property
    def code(self) -> tuple[int, int, int]:
        """(sense key, ASC, ASCQ)."""
        return self.sense_key, self.asc, self.ascq

    @property
    def field_pointer(self) -> tuple[bool, int] | None:
        """ILLEGAL REQUEST: (in the CDB and not in the data, byte number) (SPC-4 4.5.2.4.2)."""
        if self.sense_key != SenseKey.ILLEGAL_REQUEST or self.sense_key_specific is None:
            return None
        return bool(self.sense_key_specific & 0x40_0000), self.sense_key_specific & 0xFFFF

    @property
    def progress(self) -> float | None:
        """NOT READY and NO SENSE: the part that is done, 0 to 1 (SPC-4 4.5.2.4.4)."""
        if self.sense_key_specific is None or self.sense_key not in (
            SenseKey.NOT_READY,
            SenseKey.NO_SENSE,
        ):
            return None
        return (self.sense_key_specific & 0xFFFF) / 0x10000

    def __str__(self) -> str:
        if not self.response_code:
            return "no sense data"
        if not self.known:
            return f"vendor specific sense data (response code {self.response_code:02X}h)"
        text = sense_text(self.asc, self.ascq)
        codes = f"{self.sense_key:02X}/{self.asc:02X}/{self.ascq:02X}"
        return f"{sense_key_name(self.sense_key)}, {text} ({codes})"


def sense_key_name(sense_key: int) -> str:
    """``MEDIUM ERROR``."""
    try:
        return SenseKey(sense_key).name.replace("_", " ")
    except ValueError:
        return f"sense key {sense_key:X}h"


def parse_sense(data: BytesLike) -> Sense:
    """The sense of any bytes: short, overrunning and unknown ones too."""
    if not len(data):
        return Sense()
    response_code = data[0] & 0x7F
    if response_code in (FIXED_CURRENT, FIXED_DEFERRED):
        return _parse_fixed(data)
    if response_code in (DESCRIPTOR_CURRENT, DESCRIPTOR_DEFERRED):
        return _parse_descriptors(data)
    return Sense(response_code=response_code)


def _within(data: BytesLike) -> BytesLike:
    """Without what follows the sense data by its own length."""
    return data[: _HEADER_LENGTH + data[7]] if len(data) >= _HEADER_LENGTH else data


def _parse_fixed(data: BytesLike) -> Sense:
    # Some targets leave the additional length 0 and send all 18 bytes; the rest of a shorter
    # field is zero bytes anyway, so the ASC is believed wherever it was sent.
    fields = _FIXED.parse(data)
    valid = fields["valid"] and len(data) >= 7
    specific = fields["command_specific_information"] if len(data) >= 12 else 0
    return Sense(
        response_code=fields["response_code"],
        deferred=fields["response_code"] == FIXED_DEFERRED,
        sense_key=fields["sense_key"],
        asc=fields["asc"],
        ascq=fields["ascq"],
        information=fields["information"] if valid else None,
        command_specific_information=specific or None,
        sense_key_specific=fields["sense_key_specific"] if fields["sksv"] else None,
        field_replaceable_unit_code=fields["field_replaceable_unit_code"],
        incorrect_length=fields["incorrect_length"],
    )


def _parse_descriptors(data: BytesLike) -> Sense:
    fields = _DESCRIPTOR_HEADER.parse(data)
    found: dict[int, dict[str, Any]] = {}
    rest = bytes(_within(data)[_HEADER_LENGTH:])
    while len(rest) >= 2:
        length = 2 + rest[1]
        layout = _DESCRIPTORS.get(rest[0])
        # A descriptor that runs over the end, or is shorter than its type, says nothing.
        if layout is not None and layout.size <= length <= len(rest):
            found.setdefault(rest[0], layout.parse(rest))
        rest = rest[length:]
    information = found.get(_INFORMATION, {})
    specific = found.get(_SENSE_KEY_SPECIFIC, {})
    command = found.get(_COMMAND_SPECIFIC, {})
    lengths = (found.get(kind, {}).get("incorrect_length") for kind in (_STREAM, _BLOCK))
    return Sense(
        response_code=fields["response_code"],
        deferred=fields["response_code"] == DESCRIPTOR_DEFERRED,
        sense_key=fields["sense_key"],
        asc=fields["asc"],
        ascq=fields["ascq"],
        information=information["information"] if information.get("valid") else None,
        command_specific_information=command.get("command_specific_information"),
        sense_key_specific=specific["sense_key_specific"] if specific.get("sksv") else None,
        field_replaceable_unit_code=found.get(_FRU, {}).get("field_replaceable_unit_code", 0),
        incorrect_length=any(lengths),
    )


def build_sense(
    sense_key: int,
    asc: int,
    ascq: int,
    *,
    information: int | None = None,
    descriptor_format: bool = False,
    deferred: bool = False,
    sense_key_specific: int | None = None,
) -> bytes:
    """Sense data in the fixed (18 bytes) or the descriptor format.

    An INFORMATION that needs more than 32 bits does not fit in the fixed format, which then says
    nothing about it: VALID is 0 (SPC-4 4.5.3).
    """
    if information is not None and not 0 <= information < 1 << 64:
        raise LocalProtocolError(f"INFORMATION has 64 bits and cannot be {information}")
    if descriptor_format:
        return _build_descriptors(sense_key, asc, ascq, information, deferred, sense_key_specific)
    valid = information is not None and information < 1 << 32
    return _FIXED.build(
        {
            "valid": valid,
            "response_code": FIXED_DEFERRED if deferred else FIXED_CURRENT,
            "filemark": False,
            "end_of_medium": False,
            "incorrect_length": False,
            "sense_key": sense_key,
            "information": information if valid else 0,
            "additional_sense_length": _FIXED.size - _HEADER_LENGTH,
            "command_specific_information": 0,
            "asc": asc,
            "ascq": ascq,
            "field_replaceable_unit_code": 0,
            "sksv": sense_key_specific is not None,
            "sense_key_specific": sense_key_specific or 0,
        }
    )


def _build_descriptors(
    sense_key: int,
    asc: int,
    ascq: int,
    information: int | None,
    deferred: bool,
    sense_key_specific: int | None,
) -> bytes:
    descriptors = b""
    if information is not None:
        descriptors += _descriptor(_INFORMATION, valid=True, information=information)
    if sense_key_specific is not None:
        descriptors += _descriptor(
            _SENSE_KEY_SPECIFIC, sksv=True, sense_key_specific=sense_key_specific
        )
    header = _DESCRIPTOR_HEADER.build(
        {
            "response_code": DESCRIPTOR_DEFERRED if deferred else DESCRIPTOR_CURRENT,
            "sense_key": sense_key,
            "asc": asc,
            "ascq": ascq,
            "additional_sense_length": len(descriptors),
        }
    )
    return header + descriptors


def _descriptor(kind: int, **values: int | bool) -> bytes:
    layout = _DESCRIPTORS[kind]
    return layout.build({"head": bytes((kind, layout.size - 2)), **values})
