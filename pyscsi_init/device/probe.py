# SPDX-License-Identifier: Apache-2.0
"""What is behind a LUN: the questions asked at attach, in one order, with the fallbacks they need.

Everything optional is asked for only where the unit lists it, and its absence is no error: old
targets know neither VPD B0h nor READ CAPACITY(16). Driven by device/driver.py or by a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..errors import LunNotFound, NotABlockDevice, ProtocolError, ScsiError
from ..scsi import (
    BlockDeviceCharacteristics,
    BlockLimits,
    DeviceIdentification,
    LogicalBlockProvisioning,
    ModeParameters,
    ReadCapacity10,
    ReadCapacity16,
    StandardInquiry,
    SupportedPages,
    UnitSerialNumber,
    inquiry,
    logical_unit_designators,
    mode_sense_6,
    mode_sense_10,
    read_10,
    read_capacity_10,
    read_capacity_16,
    test_unit_ready,
)
from .identity import WITNESS_BYTES, Identity
from .steps import Command, Steps, ask, attempt, demand

P = TypeVar("P")

_DISK_TYPES = frozenset({0x00, 0x07, 0x0E})
"""Direct access, optical memory, simplified direct access: read and written in blocks."""

_TYPE_NAMES = {
    0x01: "a tape",
    0x03: "a processor device",
    0x05: "a CD or DVD",
    0x08: "a medium changer",
    0x0C: "a storage array controller",
    0x0D: "an enclosure",
    0x11: "an object store",
    0x1E: "a well known logical unit",
}

_NO_DISKS = frozenset({"Universal Xport"})
"""Products that call themselves disks and are how an array is managed (LSI and its heirs)."""

_CACHING_PAGE = 0x08
_ALL_PAGES = 0x3F


@dataclass(frozen=True, slots=True)
class Capacity:
    """READ CAPACITY, whichever form the unit has."""

    blocks: int
    block_size: int
    physical_block_size: int
    provisioned: bool
    """LBPME: the unit says that it is thin."""
    unmapped_reads_zero: bool
    """LBPRZ."""


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """All that was learnt."""

    identity: Identity
    inquiry: StandardInquiry
    capacity: Capacity
    block_limits: BlockLimits | None
    characteristics: BlockDeviceCharacteristics | None
    provisioning: LogicalBlockProvisioning | None
    write_protected: bool
    write_cache: bool | None
    """WCE; None where the unit does not say."""
    dpofua: bool


def probe_unit(what: str) -> Steps[UnitFacts]:
    """Ask a logical unit everything; ``what`` names it in errors.

    Raises:
        LunNotFound: nothing at this LUN.
        NotABlockDevice: something that is no disk, or has no medium.
        ScsiError: the unit refuses what every disk must know.
        ProtocolError: an answer that makes no sense.
    """
    standard = yield from probe_inquiry(what)
    yield from become_ready()
    serial, designators, limits, characteristics, provisioning = yield from _probe_pages()
    capacity = yield from probe_capacity(what)
    write_protected, write_cache, dpofua = yield from probe_modes()
    identity = Identity(
        designators=designators,
        serial_number=serial,
        vendor=standard.vendor,
        product=standard.product,
        block_size=capacity.block_size,
        size_bytes=capacity.blocks * capacity.block_size,
    )
    return UnitFacts(
        identity,
        standard,
        capacity,
        limits,
        characteristics,
        provisioning,
        write_protected,
        write_cache,
        dpofua,
    )


def probe_inquiry(what: str) -> Steps[StandardInquiry]:
    """Standard INQUIRY, and that a disk answers."""
    try:
        data = yield from demand(Command(inquiry(96), 96, "INQUIRY"))
    except ScsiError as error:
        raise LunNotFound(
            f"{what}: the target has no such logical unit ({error}); `luns` lists those it has"
        ) from error
    standard = StandardInquiry.parse(data)
    if standard.peripheral_qualifier == 0b011 or standard.peripheral_device_type == 0x1F:
        raise LunNotFound(f"{what}: the target has no such logical unit; `luns` lists those it has")
    if standard.peripheral_device_type not in _DISK_TYPES:
        kind = _TYPE_NAMES.get(
            standard.peripheral_device_type, f"device type {standard.peripheral_device_type:02x}h"
        )
        raise NotABlockDevice(
            f"{what} is {kind} ({standard.vendor} {standard.product}), no disk; "
            f"`luns` lists the disks"
        )
    if standard.product in _NO_DISKS:
        raise NotABlockDevice(
            f"{what} is the management LUN of an array ({standard.vendor} {standard.product}), no "
            f"disk; `luns` lists the disks"
        )
    if standard.peripheral_qualifier != 0:
        raise LunNotFound(f"{what}: no device is connected there at present")
    return standard


def become_ready() -> Steps[None]:
    """Take the unit attentions that every login brings, and wait while the unit becomes ready."""
    outcome = yield from ask(Command(test_unit_ready(), 0, "TEST UNIT READY"))
    del outcome  # what is wrong with the unit will be said by the command that needs it


def probe_identity(what: str) -> Steps[Identity]:
    """The identity alone, as it is compared after a new login."""
    standard = yield from probe_inquiry(what)
    yield from become_ready()
    serial, designators, _, _, _ = yield from _probe_pages(identity_only=True)
    capacity = yield from probe_capacity(what)
    return Identity(
        designators=designators,
        serial_number=serial,
        vendor=standard.vendor,
        product=standard.product,
        block_size=capacity.block_size,
        size_bytes=capacity.blocks * capacity.block_size,
    )


def probe_capacity(what: str) -> Steps[Capacity]:
    """READ CAPACITY(16), or (10) where the unit does not know it."""
    long_form = yield from attempt(Command(read_capacity_16(32), 32, "READ CAPACITY(16)"))
    if long_form is not None and len(long_form) >= 12:
        parsed = ReadCapacity16.parse(long_form)
        capacity = Capacity(
            parsed.blocks,
            parsed.block_length,
            parsed.block_length << parsed.logical_blocks_per_physical_block_exponent,
            parsed.lbpme,
            parsed.lbprz,
        )
    else:
        data = yield from demand(Command(read_capacity_10(), 8, "READ CAPACITY(10)"))
        short_form = ReadCapacity10.parse(data)
        if short_form.too_large:
            raise NotABlockDevice(
                f"{what} is larger than READ CAPACITY(10) can tell, and knows no READ CAPACITY(16)"
            )
        capacity = Capacity(
            short_form.blocks,
            short_form.block_length,
            short_form.block_length,
            provisioned=False,
            unmapped_reads_zero=False,
        )
    size = capacity.block_size
    if size < 512 or size > 65536 or size & (size - 1):
        raise NotABlockDevice(
            f"{what} has blocks of {size} bytes; only powers of two from 512 to 65536 can be a file"
        )
    return capacity


def probe_modes() -> Steps[tuple[bool, bool | None, bool]]:
    """Write protection, write cache, and whether DPO and FUA are known (MODE SENSE)."""
    for page in (_CACHING_PAGE, _ALL_PAGES):
        for command, long_header in (
            (Command(mode_sense_6(page, 255), 255, "MODE SENSE(6)"), False),
            (Command(mode_sense_10(page, 512), 512, "MODE SENSE(10)"), True),
        ):
            try:
                # Units exist that answer MODE SENSE with any error; nothing depends on it.
                data = yield from demand(command)
            except ScsiError:
                continue
            try:
                modes = ModeParameters.parse(data, ten=long_header)
            except ProtocolError:
                continue
            wce = modes.caching.wce if modes.caching is not None else None
            return modes.write_protected, wce, modes.dpofua
    # Nothing is known: assume that it can be written, and that it may have a cache.
    return False, None, False


def read_head(block_size: int, size_bytes: int) -> Steps[bytes]:
    """The start of the disk, as far as content witnesses are looked for: at most ``size_bytes``,
    which is no more than the disk has."""
    wanted = min(WITNESS_BYTES, size_bytes)
    length = -(-wanted // block_size) * block_size
    head = bytearray()
    step = max(block_size, 32768)  # small enough for any unit's transfer limit
    while len(head) < length:
        count = min(step, length - len(head))
        cdb = read_10(len(head) // block_size, count // block_size)
        data = yield from demand(Command(cdb, count, "READ of the first blocks"))
        if len(data) != count:
            raise ProtocolError(f"READ of the first blocks: {len(data)} of {count} bytes came")
        head += data
    return bytes(head[:wanted])


def _probe_pages(
    *, identity_only: bool = False
) -> Steps[
    tuple[
        str,
        tuple[str, ...],
        BlockLimits | None,
        BlockDeviceCharacteristics | None,
        LogicalBlockProvisioning | None,
    ]
]:
    def page(code: int) -> Steps[bytes | None]:
        data = yield from attempt(Command(inquiry(252, page=code), 252, f"VPD page {code:02x}h"))
        if data is None or len(data) < 4 or data[1] != code:
            return None  # units exist that answer any page with standard INQUIRY data
        length = int.from_bytes(data[2:4], "big") + 4
        if length > 252:
            data = yield from attempt(
                Command(inquiry(min(length, 65535), page=code), min(length, 65535), "VPD page")
            )
        return data

    def parsed(code: int, parse: Callable[[bytes], P]) -> Steps[P | None]:
        if code not in listed:
            return None
        data = yield from page(code)
        try:
            return None if data is None else parse(data)
        except ProtocolError:
            return None  # a page that cannot be read is as good as none

    listed: frozenset[int] = frozenset()
    data = yield from page(0x00)
    if data is not None:
        try:
            listed = frozenset(SupportedPages.parse(data).pages)
        except ProtocolError:
            listed = frozenset()
    serial = ""
    designators: tuple[str, ...] = ()
    limits = characteristics = provisioning = None
    number = yield from parsed(0x80, UnitSerialNumber.parse)
    if number is not None:
        serial = number.serial
    identification = yield from parsed(0x83, DeviceIdentification.parse)
    if identification is not None:
        designators = tuple(each.text for each in logical_unit_designators(identification))
    if not identity_only:
        limits = yield from parsed(0xB0, BlockLimits.parse)
        characteristics = yield from parsed(0xB1, BlockDeviceCharacteristics.parse)
        provisioning = yield from parsed(0xB2, LogicalBlockProvisioning.parse)
    return serial, designators, limits, characteristics, provisioning
