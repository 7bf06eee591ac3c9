# SPDX-License-Identifier: Apache-2.0
"""TransportIDs (SPC-4 7.6.4): the name of an initiator port, inside reservation data.

For iSCSI that is the initiator's name, and with format 01b its ISID too. Those of other protocols
are carried as their bytes: a unit with several kinds of ports lists them beside ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import LocalProtocolError, ProtocolError
from .layout import BytesLike, Layout, reserved, uint

ISCSI = 0x5
"""PROTOCOL IDENTIFIER (SPC-4 table 444)."""

NAME_ONLY, NAME_AND_ISID = 0b00, 0b01
_SEPARATOR = ",i,0x"
_SHORTEST = 24
"""SPC-4 7.6.4.1: a TransportID has 24 bytes, or more in iSCSI; shorter ones are padded."""

_HEADER = Layout(
    "a TransportID",
    uint("format_code", 2),
    reserved(2),
    uint("protocol_identifier", 4),
    reserved(8),
    uint("additional_length", 16),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportId:
    """One initiator port. ``isid`` None stands for all ports of an iSCSI initiator."""

    initiator_name: str = ""
    isid: bytes | None = None
    protocol_identifier: int = ISCSI
    other: bytes = b""
    """The whole TransportID of another protocol."""

    @property
    def text(self) -> str:
        """``iqn...,i,0x800000000001``; bytes in hex for another protocol."""
        if self.protocol_identifier != ISCSI:
            return f"protocol {self.protocol_identifier:x}h {self.other.hex()}"
        return self.initiator_name + ("" if self.isid is None else _SEPARATOR + self.isid.hex())

    def build(self) -> bytes:
        """The TransportID. Raises LocalProtocolError for a name that none can have."""
        if self.protocol_identifier != ISCSI:
            return self.other
        if not self.initiator_name or (self.isid is not None and len(self.isid) != 6):
            raise LocalProtocolError("a TransportID needs an iSCSI name; an ISID has 6 bytes")
        name = self.text.encode() + b"\0"
        name = (name + bytes(-len(name) % 4)).ljust(_SHORTEST - _HEADER.size, b"\0")
        header = {
            "format_code": NAME_ONLY if self.isid is None else NAME_AND_ISID,
            "protocol_identifier": ISCSI,
            "additional_length": len(name),
        }
        return _HEADER.build(header) + name

    @staticmethod
    def length_of(data: BytesLike) -> int:
        """Bytes of the TransportID at the start of ``data``. ProtocolError without a header."""
        fields = _HEADER.parse(data, minimum=_HEADER.size)
        if fields["protocol_identifier"] != ISCSI:
            return _SHORTEST
        length: int = _HEADER.size + fields["additional_length"]
        return length

    @classmethod
    def parse(cls, data: BytesLike) -> TransportId:
        """Raises ProtocolError where it is cut off, or is iSCSI's and has no readable name."""
        length = cls.length_of(data)
        if length > len(data):
            raise ProtocolError(f"a TransportID of {length} bytes, of which {len(data)} came")
        whole = bytes(data[:length])
        fields = _HEADER.parse(whole)
        if fields["protocol_identifier"] != ISCSI:
            return cls(protocol_identifier=fields["protocol_identifier"], other=whole)
        try:
            text = whole[_HEADER.size :].split(b"\0")[0].decode()
            if fields["format_code"] != NAME_AND_ISID:
                return cls(initiator_name=text)
            # The ISID is text, so its leading zeros may be left out.
            name, _, isid = text.partition(_SEPARATOR)
            return cls(initiator_name=name, isid=int(isid, 16).to_bytes(6, "big"))
        except (ValueError, OverflowError) as error:
            raise ProtocolError(f"a TransportID that cannot be read: {whole!r}") from error


def parse_transport_ids(data: BytesLike) -> tuple[TransportId, ...]:
    """All of a list. Raises ProtocolError where one is cut off or cannot be read."""
    found: list[TransportId] = []
    rest = bytes(data)
    while rest:
        found.append(TransportId.parse(rest))
        rest = rest[TransportId.length_of(rest) :]
    return tuple(found)
