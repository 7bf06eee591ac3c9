# SPDX-License-Identifier: Apache-2.0
"""Vital product data (SPC-4 7.8, SBC-3 6.6): what a logical unit says of itself, page by page.

Every page has the same 4-byte header. A target that ignores EVPD answers with standard INQUIRY
data instead, and some answer with another page: ``parse`` refuses both with ProtocolError, because
wrong limits are worse than none. Beyond that it is tolerant: the page length is not trusted beyond
the bytes that came, and fields that an older standard did not have read as zero, "not reported".
Whether a limit is obeyed is decided above.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ..errors import ProtocolError
from .designators import Association, Designator, parse_designators
from .inquiry import ascii_field
from .layout import BytesLike, Layout, flag, reserved, uint

SUPPORTED_PAGES = 0x00
UNIT_SERIAL_NUMBER = 0x80
DEVICE_IDENTIFICATION = 0x83
BLOCK_LIMITS = 0xB0
BLOCK_DEVICE_CHARACTERISTICS = 0xB1
LOGICAL_BLOCK_PROVISIONING = 0xB2

_HEADER = Layout(
    "a VPD page header",
    uint("peripheral_qualifier", 3),
    uint("peripheral_device_type", 5),
    uint("page_code", 8),
    uint("page_length", 16),
)
_PAGE_CODES = 256


def vpd_length(data: BytesLike) -> int:
    """How many bytes the whole page has: the allocation length to ask again with."""
    length: int = _HEADER.parse(data, minimum=_HEADER.size)["page_length"]
    return _HEADER.size + length


def vpd_body(data: BytesLike, page: int) -> bytes:
    """What follows the header. Raises ProtocolError for another page than ``page``."""
    header = _HEADER.parse(data, minimum=_HEADER.size)
    if header["page_code"] != page:
        raise ProtocolError(
            f"VPD page {page:02X}h was asked for and page {header['page_code']:02X}h came: "
            "the logical unit ignores the page code or EVPD"
        )
    return bytes(data[_HEADER.size : _HEADER.size + header["page_length"]])


def vpd_page(page: int, body: bytes, *, peripheral: int = 0) -> bytes:
    """A whole page. ``peripheral``: qualifier and device type, byte 0 of every INQUIRY answer."""
    return (
        _HEADER.build(
            {
                "peripheral_qualifier": peripheral >> 5,
                "peripheral_device_type": peripheral & 0x1F,
                "page_code": page,
                "page_length": len(body),
            }
        )
        + body
    )


@dataclass(frozen=True, slots=True)
class SupportedPages:
    """Page 00h: the pages that may be asked for, in the order in which they came."""

    PAGE: ClassVar[int] = SUPPORTED_PAGES

    pages: tuple[int, ...]

    def __contains__(self, page: object) -> bool:
        return page in self.pages

    @classmethod
    def parse(cls, data: BytesLike) -> SupportedPages:
        """Raises ProtocolError for another page.

        Standard INQUIRY data cannot be told by its second byte, which is 00h as the page code of
        this page; but its version then stands in the page length, and makes it impossible.
        """
        if vpd_length(data) > _HEADER.size + _PAGE_CODES:
            raise ProtocolError("the list of VPD pages is longer than there are pages")
        return cls(tuple(vpd_body(data, cls.PAGE)))

    def build(self) -> bytes:
        """The page, sorted, as SPC-4 7.8.12 wants it."""
        return vpd_page(self.PAGE, bytes(sorted(self.pages)))


@dataclass(frozen=True, slots=True)
class UnitSerialNumber:
    """Page 80h."""

    PAGE: ClassVar[int] = UNIT_SERIAL_NUMBER

    serial: str
    """Trimmed; empty where the target has none to tell."""

    @classmethod
    def parse(cls, data: BytesLike) -> UnitSerialNumber:
        """Raises ProtocolError for another page."""
        return cls(ascii_field(vpd_body(data, cls.PAGE)))

    def build(self) -> bytes:
        """The page."""
        return vpd_page(self.PAGE, self.serial.encode("ascii", "replace"))


@dataclass(frozen=True, slots=True)
class DeviceIdentification:
    """Page 83h."""

    PAGE: ClassVar[int] = DEVICE_IDENTIFICATION

    designators: tuple[Designator, ...]

    @classmethod
    def parse(cls, data: BytesLike) -> DeviceIdentification:
        """Raises ProtocolError for another page."""
        return cls(parse_designators(vpd_body(data, cls.PAGE)))

    def build(self) -> bytes:
        """The page."""
        return vpd_page(self.PAGE, b"".join(d.build() for d in self.designators))


def logical_unit_designators(
    page: DeviceIdentification | Iterable[Designator],
) -> tuple[Designator, ...]:
    """Those that name the logical unit itself, not the target or the port it was reached by."""
    designators = page.designators if isinstance(page, DeviceIdentification) else page
    return tuple(d for d in designators if d.association == Association.LOGICAL_UNIT)


_BLOCK_LIMITS = Layout(
    "the Block Limits page",
    reserved(7),
    flag("wsnz"),
    uint("maximum_compare_and_write_length", 8),
    uint("optimal_transfer_length_granularity", 16),
    uint("maximum_transfer_length", 32),
    uint("optimal_transfer_length", 32),
    uint("maximum_prefetch_length", 32),
    uint("maximum_unmap_lba_count", 32),
    uint("maximum_unmap_block_descriptor_count", 32),
    uint("optimal_unmap_granularity", 32),
    flag("ugavalid"),
    uint("unmap_granularity_alignment", 31),
    uint("maximum_write_same_length", 64),
    uint("maximum_atomic_transfer_length", 32),
    uint("atomic_alignment", 32),
    uint("atomic_transfer_length_granularity", 32),
    uint("maximum_atomic_transfer_length_with_atomic_boundary", 32),
    uint("maximum_atomic_boundary_size", 32),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLimits:
    """Page B0h (SBC-3 6.6.4), counts in logical blocks; 0 is "not reported"."""

    PAGE: ClassVar[int] = BLOCK_LIMITS

    wsnz: bool = False
    """WRITE SAME with 0 blocks is not supported."""
    maximum_compare_and_write_length: int = 0
    optimal_transfer_length_granularity: int = 0
    maximum_transfer_length: int = 0
    optimal_transfer_length: int = 0
    maximum_prefetch_length: int = 0
    maximum_unmap_lba_count: int = 0
    maximum_unmap_block_descriptor_count: int = 0
    optimal_unmap_granularity: int = 0
    ugavalid: bool = False
    """``unmap_granularity_alignment`` has a meaning."""
    unmap_granularity_alignment: int = 0
    maximum_write_same_length: int = 0
    maximum_atomic_transfer_length: int = 0
    atomic_alignment: int = 0
    atomic_transfer_length_granularity: int = 0
    maximum_atomic_transfer_length_with_atomic_boundary: int = 0
    maximum_atomic_boundary_size: int = 0

    @classmethod
    def parse(cls, data: BytesLike) -> BlockLimits:
        """Raises ProtocolError for another page. The 16 bytes of SBC-2 are enough."""
        return cls(**_BLOCK_LIMITS.parse(vpd_body(data, cls.PAGE)))

    def build(self) -> bytes:
        """The page, 64 bytes."""
        return vpd_page(self.PAGE, _BLOCK_LIMITS.build_from(self))


_CHARACTERISTICS = Layout(
    "the Block Device Characteristics page",
    uint("medium_rotation_rate", 16),
    uint("product_type", 8),
    uint("wabereq", 2),
    uint("wacereq", 2),
    uint("nominal_form_factor", 4),
    reserved(2),
    uint("zoned", 2),
    reserved(2),
    flag("fuab"),
    flag("vbuls"),
    reserved(55 * 8),
)
_NON_ROTATING = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDeviceCharacteristics:
    """Page B1h (SBC-3 6.6.3)."""

    PAGE: ClassVar[int] = BLOCK_DEVICE_CHARACTERISTICS

    medium_rotation_rate: int = 0
    """0 not reported, 1 no rotating medium, else revolutions per minute."""
    product_type: int = 0
    wabereq: int = 0
    wacereq: int = 0
    nominal_form_factor: int = 0
    zoned: int = 0
    fuab: bool = False
    vbuls: bool = False

    @property
    def rotational(self) -> bool | None:
        """None where it is not reported."""
        if not self.medium_rotation_rate:
            return None
        return self.medium_rotation_rate != _NON_ROTATING

    @classmethod
    def parse(cls, data: BytesLike) -> BlockDeviceCharacteristics:
        """Raises ProtocolError for another page."""
        return cls(**_CHARACTERISTICS.parse(vpd_body(data, cls.PAGE)))

    def build(self) -> bytes:
        """The page, 64 bytes."""
        return vpd_page(self.PAGE, _CHARACTERISTICS.build_from(self))


_PROVISIONING = Layout(
    "the Logical Block Provisioning page",
    uint("threshold_exponent", 8),
    flag("lbpu"),
    flag("lbpws"),
    flag("lbpws10"),
    uint("lbprz", 3),
    flag("anc_sup"),
    flag("dp"),
    uint("minimum_percentage", 5),
    uint("provisioning_type", 3),
    uint("threshold_percentage", 8),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalBlockProvisioning:
    """Page B2h (SBC-3 6.6.5)."""

    PAGE: ClassVar[int] = LOGICAL_BLOCK_PROVISIONING

    threshold_exponent: int = 0
    lbpu: bool = False
    """UNMAP is supported."""
    lbpws: bool = False
    """WRITE SAME(16) with UNMAP is supported."""
    lbpws10: bool = False
    """WRITE SAME(10) with UNMAP is supported."""
    lbprz: int = 0
    """xx1b: unmapped blocks read as zeros; 010b: as the provisioning initialization pattern."""
    anc_sup: bool = False
    dp: bool = False
    minimum_percentage: int = 0
    provisioning_type: int = 0
    """0 not reported, 1 resource (thick), 2 thin."""
    threshold_percentage: int = 0

    @property
    def reads_zeros(self) -> bool:
        """Unmapped blocks read as zeros."""
        return bool(self.lbprz & 1)

    @classmethod
    def parse(cls, data: BytesLike) -> LogicalBlockProvisioning:
        """Raises ProtocolError for another page. A group descriptor (DP) is not read."""
        return cls(**_PROVISIONING.parse(vpd_body(data, cls.PAGE)))

    def build(self) -> bytes:
        """The page, 8 bytes, without a group descriptor."""
        return vpd_page(self.PAGE, _PROVISIONING.build_from(self))
