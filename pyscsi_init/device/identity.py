# SPDX-License-Identifier: Apache-2.0
"""Is this still the same logical unit? Designators, serial number, block length, content witness.

A LUN is only an address: behind it another disk may stand tomorrow, with the same target name and
the same number. Designators that the target derives from the address alone do not tell such a swap,
so the UUIDs that filesystems, LVM and partition tables keep at the start of the disk bear witness
too. Compared at every new login, before anything is replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import CapacityShrunk, IdentityMismatch

WITNESS_BYTES = 69632
"""How much of the start holds all known UUIDs: the Btrfs superblock lies at 65536 + 4096."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a logical unit says of itself; ``witnesses`` is what its content says."""

    designators: tuple[str, ...]
    """Logical-unit designators of VPD 83h in text form, e.g. ``naa.60014055d1``."""
    serial_number: str
    """VPD 80h."""
    vendor: str
    product: str
    block_size: int
    size_bytes: int = field(compare=False)
    witnesses: tuple[str, ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """One text for people and for state files."""
        if self.designators:
            return self.designators[0]
        return f"serial.{self.serial_number}" if self.serial_number else "unidentified"

    @property
    def key(self) -> str:
        """Equal for the same unit, whatever address or portal it was reached by."""
        return "|".join((*sorted(self.designators), self.serial_number, self.vendor, self.product))


def check_same_unit(old: Identity, new: Identity) -> None:
    """Compare what the units say of themselves.

    Raises:
        IdentityMismatch: another unit.
        CapacityShrunk: the same, but smaller: blocks that were written are gone.
    """
    for what, before, after in (
        ("designators", ", ".join(old.designators), ", ".join(new.designators)),
        ("serial number", old.serial_number, new.serial_number),
        ("product", f"{old.vendor} {old.product}", f"{new.vendor} {new.product}"),
        ("block size", old.block_size, new.block_size),
    ):
        if before != after:
            raise IdentityMismatch(
                f"another logical unit answers at this address: its {what} was {before!r} and is "
                f"{after!r}; nothing is written to it. Detach the volume and look at the target"
            )
    if new.size_bytes < old.size_bytes:
        raise CapacityShrunk(
            f"the logical unit shrank from {old.size_bytes} to {new.size_bytes} bytes while it was "
            f"in use; detach the volume and look at the target"
        )


def read_witnesses(head: bytes | bytearray | memoryview) -> tuple[str, ...]:
    """The UUIDs and signatures at the start of a disk, e.g. ``("ext.1b4e28ba…",)``.

    ``head`` is the first WITNESS_BYTES (or all of a smaller disk). Empty where none is known: a
    blank disk, or a kind of content that is not known here.
    """
    start = bytes(head[:WITNESS_BYTES])
    found: list[str] = []

    def uuid(kind: str, offset: int, length: int = 16) -> None:
        found.append(f"{kind}.{start[offset : offset + length].hex()}")

    if start[1080:1082] == b"\x53\xef":
        uuid("ext", 1024 + 104)
    if start[0:4] == b"XFSB":
        uuid("xfs", 32)
    if start[65600:65608] == b"_BHRfS_M":
        uuid("btrfs", 65536 + 32)
    for sector in range(4):
        if start[sector * 512 : sector * 512 + 8] == b"LABELONE":
            uuid("lvm", sector * 512 + 32, 32)
            break
    for block_size in (512, 4096):
        if start[block_size : block_size + 8] == b"EFI PART":
            uuid("gpt", block_size + 56)
            break
    if start[510:512] == b"\x55\xaa" and any(start[440:444]):
        uuid("mbr", 440, 4)
    if start[0:6] == b"LUKS\xba\xbe":
        uuid("luks", 168, 36)
    return tuple(found)


class ContentWitness:
    """What the start of the disk must look like, kept up to date by our own writes.

    Our own mkfs changes the UUIDs; so the start of the disk is shadowed: every write to it is
    applied here too. ``acceptable`` holds all contents that could be on the disk: more than one
    only while writes to the start are in flight, whose outcome a loss would leave unknown.
    """

    def __init__(self, head: bytes) -> None:
        self._shadow = bytearray(head)
        self._in_flight = 0
        self._trusted = True
        self.acceptable: set[tuple[str, ...]] = {read_witnesses(head)}

    @property
    def length(self) -> int:
        """Bytes at the start that are watched."""
        return len(self._shadow)

    def write_started(
        self, offset: int, data: bytes | bytearray | memoryview | None, length: int
    ) -> None:
        """A write to the start left; ``data`` None writes zeros."""
        end = min(offset + length, len(self._shadow))
        self._shadow[offset:end] = bytes(end - offset) if data is None else data[: end - offset]
        self._in_flight += 1
        self.acceptable.add(read_witnesses(self._shadow))

    def write_ended(self, *, certain: bool) -> None:
        """A write to the start was answered; not ``certain`` where it may be done or not."""
        self._in_flight -= 1
        if not certain:
            self._trusted = False
        elif not self._in_flight and self._trusted:
            self.acceptable = {read_witnesses(self._shadow)}

    def forget(self) -> None:
        """The start was changed in a way that cannot be followed: any content is accepted until it
        was read again."""
        self._trusted = False
        self.acceptable.clear()

    @property
    def stale(self) -> bool:
        """The start should be read again when nothing writes to it."""
        return not self._trusted and not self._in_flight

    def refresh(self, head: bytes) -> None:
        """The start was read again."""
        self._shadow[:] = head
        self._trusted = True
        self.acceptable = {read_witnesses(head)}

    def check(self, head: bytes) -> None:
        """Compare the start of the disk that answers now.

        Raises:
            IdentityMismatch: it is none of the contents that this disk can have.
        """
        found = read_witnesses(head)
        if self.acceptable and found not in self.acceptable:

            def text(witnesses: tuple[str, ...]) -> str:
                return ", ".join(witnesses) or "no known signature"

            expected = " or ".join(text(each) for each in sorted(self.acceptable))
            raise IdentityMismatch(
                f"the disk that answers at this address has another content: {text(found)} where "
                f"{expected} was; nothing is written to it. Detach the volume, look at the target"
            )
