# SPDX-License-Identifier: Apache-2.0
"""Standard INQUIRY data (SPC-4 6.6.2): what kind of device answers, and who made it.

36 bytes are the minimum by the standard, and targets send less: missing bytes read as zero and
blanks, so that a LUN scan never stops at an odd device. Vital product data is in vpd.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from .layout import BytesLike, Layout, flag, octets, reserved, uint

MINIMUM_LENGTH = 36
DIRECT_ACCESS_BLOCK = 0x00
STORAGE_ARRAY_CONTROLLER = 0x0C
NO_DEVICE = 0x1F

DEVICE_TYPES: dict[int, str] = {
    0x00: "disk",
    0x01: "tape",
    0x02: "printer",
    0x03: "processor",
    0x04: "write-once disk",
    0x05: "cd/dvd",
    0x07: "optical memory",
    0x08: "medium changer",
    0x0C: "storage array controller",
    0x0D: "enclosure services",
    0x0E: "reduced block device",
    0x11: "object storage",
    0x14: "zoned disk",
    0x1E: "well known logical unit",
    0x1F: "no device",
}
"""Peripheral device types in words (SPC-4 table 139)."""

_LAYOUT = Layout(
    "standard INQUIRY data",
    uint("peripheral_qualifier", 3),
    uint("peripheral_device_type", 5),
    flag("removable"),
    reserved(7),
    uint("version", 8),
    reserved(2),
    flag("normal_aca"),
    flag("hierarchical_support"),
    uint("response_data_format", 4),
    uint("additional_length", 8),
    reserved(2),
    uint("tpgs", 2),
    flag("third_party_copy"),
    reserved(2),
    flag("protect"),
    reserved(14),
    flag("command_queue"),
    reserved(1),
    octets("vendor", 8),
    octets("product", 16),
    octets("revision", 4),
)
_REST = Layout(
    "standard INQUIRY data after byte 36",
    reserved(22 * 8),
    *(uint(f"version_descriptor_{n}", 16) for n in range(8)),
    reserved(22 * 8),
)
_ADDITIONAL_LENGTH_FROM = 5
_FULL_LENGTH = 96


def ascii_field(data: bytes) -> str:
    """A left-aligned ASCII field: ends at a NUL, blanks trimmed, other bytes shown as ``?``."""
    text = data.split(b"\0", 1)[0].strip()
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in text)


def padded(text: str, length: int) -> bytes:
    """A left-aligned ASCII field of fixed length."""
    return text.encode("ascii", "replace")[:length].ljust(length)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardInquiry:
    """Standard INQUIRY data; the texts are trimmed."""

    peripheral_qualifier: int = 0
    peripheral_device_type: int = DIRECT_ACCESS_BLOCK
    removable: bool = False
    version: int = 6
    """6 is SPC-4."""
    normal_aca: bool = False
    hierarchical_support: bool = False
    response_data_format: int = 2
    tpgs: int = 0
    """Asymmetric logical unit access: bit 0 implicit, bit 1 explicit."""
    third_party_copy: bool = False
    protect: bool = False
    command_queue: bool = True
    vendor: str = ""
    product: str = ""
    revision: str = ""
    version_descriptors: tuple[int, ...] = ()

    @property
    def connected(self) -> bool:
        """There is a logical unit at this LUN that can be used (qualifier 000b, not type 1Fh)."""
        return self.peripheral_qualifier == 0 and self.peripheral_device_type != NO_DEVICE

    @property
    def is_disk(self) -> bool:
        """A usable direct access block device."""
        return self.connected and self.peripheral_device_type == DIRECT_ACCESS_BLOCK

    @property
    def device_type_text(self) -> str:
        """The device type in words."""
        kind = self.peripheral_device_type
        return DEVICE_TYPES.get(kind, f"device type {kind:02X}h")

    @staticmethod
    def length_of(data: BytesLike) -> int:
        """How many bytes the whole answer has: the allocation length to ask again with."""
        return _ADDITIONAL_LENGTH_FROM + data[4] if len(data) > 4 else MINIMUM_LENGTH

    @classmethod
    def parse(cls, data: BytesLike) -> StandardInquiry:
        """Raises ProtocolError for no data at all; anything longer is read as far as it goes."""
        fields = _LAYOUT.parse(data, minimum=1)
        del fields["additional_length"]
        for name in ("vendor", "product", "revision"):
            fields[name] = ascii_field(fields[name])
        rest = _REST.parse(data[MINIMUM_LENGTH:])
        return cls(**fields, version_descriptors=tuple(v for v in rest.values() if v))

    def build(self) -> bytes:
        """36 bytes, or 96 with version descriptors."""
        length = _FULL_LENGTH if self.version_descriptors else MINIMUM_LENGTH
        fields = {
            name: getattr(self, name)
            for name in _LAYOUT.names
            if name not in ("additional_length", "vendor", "product", "revision")
        }
        data = _LAYOUT.build(
            {
                **fields,
                "additional_length": length - _ADDITIONAL_LENGTH_FROM,
                "vendor": padded(self.vendor, 8),
                "product": padded(self.product, 16),
                "revision": padded(self.revision, 4),
            }
        )
        if not self.version_descriptors:
            return data
        descriptors = (*self.version_descriptors, *[0] * 8)[:8]
        rest = {f"version_descriptor_{n}": value for n, value in enumerate(descriptors)}
        return data + _REST.build(rest)
