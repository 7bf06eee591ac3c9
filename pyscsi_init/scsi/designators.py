# SPDX-License-Identifier: Apache-2.0
"""Designation descriptors (SPC-4 7.8.6): the names of a logical unit, its target and its port.

They are what a logical unit is recognized by after a reconnect, so each has a text form that is
stable and comparable. Targets fill them in carelessly (no bytes, wrong lengths, bytes that are no
text), and such a designator is kept as it came or left out, never an error.
"""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass

from ..errors import LocalProtocolError
from .layout import BytesLike, Layout, flag, reserved, uint


class Association(enum.IntEnum):
    """What the designator names."""

    LOGICAL_UNIT = 0
    TARGET_PORT = 1
    TARGET_DEVICE = 2


class DesignatorType(enum.IntEnum):
    """SPC-4 table 531."""

    VENDOR_SPECIFIC = 0x0
    T10_VENDOR_ID = 0x1
    EUI_64 = 0x2
    NAA = 0x3
    RELATIVE_TARGET_PORT = 0x4
    TARGET_PORT_GROUP = 0x5
    LOGICAL_UNIT_GROUP = 0x6
    MD5_LOGICAL_UNIT = 0x7
    SCSI_NAME_STRING = 0x8
    PROTOCOL_SPECIFIC_PORT = 0x9
    UUID = 0xA


class CodeSet(enum.IntEnum):
    """How the bytes of a designator are meant."""

    BINARY = 1
    ASCII = 2
    UTF_8 = 3


ISCSI_PROTOCOL_IDENTIFIER = 0x5

_HEADER = Layout(
    "a designation descriptor",
    uint("protocol_identifier", 4),
    uint("code_set", 4),
    flag("piv"),
    reserved(1),
    uint("association", 2),
    uint("designator_type", 4),
    reserved(8),
    uint("length", 8),
)
_LARGEST_DESIGNATOR = 255

_PREFIXES: dict[int, str] = {
    DesignatorType.VENDOR_SPECIFIC: "vendor",
    DesignatorType.T10_VENDOR_ID: "t10",
    DesignatorType.EUI_64: "eui",
    DesignatorType.NAA: "naa",
    DesignatorType.RELATIVE_TARGET_PORT: "port",
    DesignatorType.TARGET_PORT_GROUP: "group",
    DesignatorType.LOGICAL_UNIT_GROUP: "lugroup",
    DesignatorType.MD5_LOGICAL_UNIT: "md5",
    DesignatorType.SCSI_NAME_STRING: "name",
    DesignatorType.PROTOCOL_SPECIFIC_PORT: "portid",
    DesignatorType.UUID: "uuid",
}
_NUMBERS = (
    DesignatorType.RELATIVE_TARGET_PORT,
    DesignatorType.TARGET_PORT_GROUP,
    DesignatorType.LOGICAL_UNIT_GROUP,
)
_TEXTS = (CodeSet.ASCII, CodeSet.UTF_8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Designator:
    """One designation descriptor; the numbers are plain, since targets send reserved ones too."""

    designator_type: int
    value: bytes
    association: int = Association.LOGICAL_UNIT
    code_set: int = CodeSet.BINARY
    protocol_identifier: int | None = None
    """Only where PIV says that it is valid."""

    @property
    def text(self) -> str:
        """``naa.6001405...``, ``eui.0025...``, ``t10.IET 0001``, ``name.iqn...``, ``port.1``."""
        prefix = _PREFIXES.get(self.designator_type, f"type{self.designator_type:x}")
        return f"{prefix}.{self._value_text()}"

    def _value_text(self) -> str:
        kind = self.designator_type
        if kind == DesignatorType.UUID and len(self.value) == 18:
            return str(uuid.UUID(bytes=self.value[2:]))
        if kind in _NUMBERS and len(self.value) == 4:
            return str(int.from_bytes(self.value[2:], "big"))
        if self.code_set in _TEXTS or kind == DesignatorType.SCSI_NAME_STRING:
            return _printable(self.value)
        return self.value.hex()

    def build(self) -> bytes:
        """The descriptor with its 4-byte header."""
        if len(self.value) > _LARGEST_DESIGNATOR:
            raise LocalProtocolError(f"a designator of {len(self.value)} bytes is longer than 255")
        header = _HEADER.build(
            {
                "protocol_identifier": self.protocol_identifier or 0,
                "code_set": self.code_set,
                "piv": self.protocol_identifier is not None,
                "association": self.association,
                "designator_type": self.designator_type,
                "length": len(self.value),
            }
        )
        return header + self.value


def _printable(data: bytes) -> str:
    """Text for comparison: without NULs and blanks at its ends, inner runs of blanks as one."""
    text = data.rstrip(b"\0 ").decode("utf-8", "backslashreplace")
    words = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return " ".join(words.split())


def parse_designators(data: BytesLike) -> tuple[Designator, ...]:
    """The descriptors of an identification page's body; one that is cut off is left out."""
    found: list[Designator] = []
    rest = bytes(data)
    while len(rest) >= _HEADER.size:
        fields = _HEADER.parse(rest)
        end = _HEADER.size + fields["length"]
        if end > len(rest):
            break
        if fields["length"]:
            # PIV says nothing for a logical unit (SPC-4 7.8.6.1).
            valid = fields["piv"] and fields["association"] != Association.LOGICAL_UNIT
            found.append(
                Designator(
                    designator_type=fields["designator_type"],
                    value=rest[_HEADER.size : end],
                    association=fields["association"],
                    code_set=fields["code_set"],
                    protocol_identifier=fields["protocol_identifier"] if valid else None,
                )
            )
        rest = rest[end:]
    return tuple(found)
