# SPDX-License-Identifier: Apache-2.0
"""MODE SENSE data (SPC-4 7.5, SBC-3 6.5): write protection, caches and how sense is reported.

The answer is a header (4 or 8 bytes), block descriptors that nobody needs, and pages. Only the
caching and control pages are read. Targets cut this answer short more than any other, so what is
missing is "not known" (None) and the caller takes its default: writable, cache unknown.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .layout import BytesLike, Layout, flag, reserved, uint

CACHING_PAGE = 0x08
CONTROL_PAGE = 0x0A

_HEADER_6 = Layout(
    "the mode parameter header(6)",
    uint("mode_data_length", 8),
    uint("medium_type", 8),
    flag("write_protected"),
    reserved(2),
    flag("dpofua"),
    reserved(4),
    uint("block_descriptor_length", 8),
)
_HEADER_10 = Layout(
    "the mode parameter header(10)",
    uint("mode_data_length", 16),
    uint("medium_type", 8),
    flag("write_protected"),
    reserved(2),
    flag("dpofua"),
    reserved(4),
    reserved(7),
    flag("long_lba"),
    reserved(8),
    uint("block_descriptor_length", 16),
)
_PAGE_CODE = 0x3F
_SUBPAGE_FORMAT = 0x40

_CACHING = Layout(
    "the caching mode page",
    flag("ic"),
    flag("abpf"),
    flag("cap"),
    flag("disc"),
    flag("size_enable"),
    flag("wce"),
    flag("mf"),
    flag("rcd"),
    reserved(9 * 8),
    flag("fsw"),
    flag("lbcss"),
    flag("dra"),
    reserved(4),
    flag("nv_dis"),
    reserved(7 * 8),
)
_CONTROL = Layout(
    "the control mode page",
    uint("tst", 3),
    flag("tmf_only"),
    flag("dpicz"),
    flag("d_sense"),
    flag("gltsd"),
    flag("rlec"),
    uint("queue_algorithm_modifier", 4),
    flag("nuar"),
    uint("qerr", 2),
    reserved(1),
    reserved(1),
    flag("rac"),
    uint("ua_intlck_ctrl", 2),
    flag("swp"),
    reserved(3),
    flag("ato"),
    flag("tas"),
    reserved(3),
    uint("autoload_mode", 3),
    reserved(2 * 8),
    uint("busy_timeout_period", 16),
    uint("extended_self_test_completion_time", 16),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachingPage:
    """Caching mode page (SBC-3 6.5.5), without the prefetch numbers."""

    ic: bool = False
    abpf: bool = False
    cap: bool = False
    disc: bool = False
    size_enable: bool = False
    wce: bool = False
    """Write cache enabled: a WRITE may be GOOD before its data are on the medium."""
    mf: bool = False
    rcd: bool = False
    """Read cache disabled."""
    fsw: bool = False
    lbcss: bool = False
    dra: bool = False
    nv_dis: bool = False

    @classmethod
    def parse(cls, page: BytesLike) -> CachingPage:
        """From the bytes after the page length; at least the flags must be there."""
        return cls(**_CACHING.parse(page, minimum=1))

    def build(self) -> bytes:
        """The page with its code and length, 20 bytes."""
        return bytes((CACHING_PAGE, _CACHING.size)) + _CACHING.build_from(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPage:
    """Control mode page (SPC-4 7.5.8)."""

    tst: int = 0
    """0: one task set for all initiators; 1: one for each I_T nexus."""
    tmf_only: bool = False
    dpicz: bool = False
    d_sense: bool = False
    """Sense data comes in the descriptor format."""
    gltsd: bool = False
    rlec: bool = False
    queue_algorithm_modifier: int = 0
    nuar: bool = False
    qerr: int = 0
    rac: bool = False
    ua_intlck_ctrl: int = 0
    swp: bool = False
    """Software write protect."""
    ato: bool = False
    tas: bool = False
    """Commands that another initiator aborts end with TASK ABORTED."""
    autoload_mode: int = 0
    busy_timeout_period: int = 0
    extended_self_test_completion_time: int = 0

    @classmethod
    def parse(cls, page: BytesLike) -> ControlPage:
        """From the bytes after the page length; at least the first flags must be there."""
        return cls(**_CONTROL.parse(page, minimum=1))

    def build(self) -> bytes:
        """The page with its code and length, 12 bytes."""
        return bytes((CONTROL_PAGE, _CONTROL.size)) + _CONTROL.build_from(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeParameters:
    """An answer to MODE SENSE. A page that did not come is None."""

    medium_type: int = 0
    write_protected: bool = False
    dpofua: bool = False
    """DPO and FUA bits are supported."""
    caching: CachingPage | None = None
    control: ControlPage | None = None
    truncated: bool = False
    """More was to be said than came; the page asked for may be in the rest."""

    @classmethod
    def parse_6(cls, data: BytesLike) -> ModeParameters:
        """MODE SENSE(6) data. Raises ProtocolError for less than its header of 4 bytes."""
        return cls._parse(_HEADER_6, 1, data)

    @classmethod
    def parse_10(cls, data: BytesLike) -> ModeParameters:
        """MODE SENSE(10) data. Raises ProtocolError for less than its header of 8 bytes."""
        return cls._parse(_HEADER_10, 2, data)

    @classmethod
    def parse(cls, data: BytesLike, *, ten: bool = False) -> ModeParameters:
        """MODE SENSE(6) data, or with ``ten`` MODE SENSE(10) data."""
        return cls.parse_10(data) if ten else cls.parse_6(data)

    @classmethod
    def _parse(cls, layout: Layout, length_field: int, data: BytesLike) -> ModeParameters:
        header = layout.parse(data, minimum=layout.size)
        length = length_field + header["mode_data_length"]
        # A mode data length of 0 with more bytes behind it is a target that does not fill it in.
        end = min(len(data), length) if header["mode_data_length"] else len(data)
        pages = _pages(data[layout.size + header["block_descriptor_length"] : end])
        caching, control = pages.get(CACHING_PAGE), pages.get(CONTROL_PAGE)
        return cls(
            medium_type=header["medium_type"],
            write_protected=header["write_protected"],
            dpofua=header["dpofua"],
            caching=CachingPage.parse(caching) if caching else None,
            control=ControlPage.parse(control) if control else None,
            truncated=length > len(data),
        )

    def build_6(self, block_descriptors: bytes = b"") -> bytes:
        """MODE SENSE(6) data with the pages that are set."""
        body = block_descriptors + self._build_pages()
        return self._header(_HEADER_6, 1, block_descriptors, body) + body

    def build_10(self, block_descriptors: bytes = b"", *, long_lba: bool = False) -> bytes:
        """MODE SENSE(10) data with the pages that are set."""
        body = block_descriptors + self._build_pages()
        return self._header(_HEADER_10, 2, block_descriptors, body, long_lba=long_lba) + body

    def build(self, *, ten: bool = False, block_descriptors: bytes = b"") -> bytes:
        """MODE SENSE(6) data, or with ``ten`` MODE SENSE(10) data."""
        return self.build_10(block_descriptors) if ten else self.build_6(block_descriptors)

    def _build_pages(self) -> bytes:
        return b"".join(page.build() for page in (self.caching, self.control) if page is not None)

    def _header(
        self, layout: Layout, length_field: int, descriptors: bytes, body: bytes, **extra: bool
    ) -> bytes:
        return layout.build(
            {
                "mode_data_length": layout.size - length_field + len(body),
                "medium_type": self.medium_type,
                "write_protected": self.write_protected,
                "dpofua": self.dpofua,
                "block_descriptor_length": len(descriptors),
                **extra,
            }
        )


def short_block_descriptor(blocks: int, block_length: int) -> bytes:
    """A short LBA mode parameter block descriptor (SBC-3 6.5.2.2)."""
    return struct.pack(">II", min(blocks, 0xFFFF_FFFF), block_length & 0xFF_FFFF)


def _pages(data: BytesLike) -> dict[int, bytes]:
    """Page code -> the bytes after the page length; subpages are passed over."""
    pages: dict[int, bytes] = {}
    rest = bytes(data)
    while len(rest) >= 2:
        if rest[0] & _SUBPAGE_FORMAT:
            if len(rest) < 4:
                break
            rest = rest[4 + int.from_bytes(rest[2:4], "big") :]
            continue
        end = 2 + rest[1]
        pages.setdefault(rest[0] & _PAGE_CODE, rest[2:end])
        rest = rest[end:]
    return pages
