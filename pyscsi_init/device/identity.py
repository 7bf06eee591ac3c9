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


_SIGNATURES: tuple[tuple[str, int, bytes, int, int], ...] = (
    # kind, offset of the magic, the magic, offset and length of the UUID
    ("ext", 1080, b"\x53\xef", 1024 + 104, 16),
    ("xfs", 0, b"XFSB", 32, 16),
    ("btrfs", 65600, b"_BHRfS_M", 65536 + 32, 16),
    ("lvm", 0, b"LABELONE", 32, 32),
    ("lvm", 512, b"LABELONE", 512 + 32, 32),
    ("lvm", 1024, b"LABELONE", 1024 + 32, 32),
    ("lvm", 1536, b"LABELONE", 1536 + 32, 32),
    ("gpt", 512, b"EFI PART", 512 + 56, 16),
    ("gpt", 4096, b"EFI PART", 4096 + 56, 16),
    ("mbr", 510, b"\x55\xaa", 440, 4),
    ("luks", 0, b"LUKS\xba\xbe", 168, 36),
)
"""Each lies within 512 bytes, so within one block: it is there as a whole, or not at all."""


_SECTOR = 512
_SECTORS = sorted({at // _SECTOR * _SECTOR for _, magic, _, uuid, _ in _SIGNATURES
                   for at in (magic, uuid)})  # fmt: skip


class _Shadow:
    """A copy of the start of a disk, of no more than the sectors in which signatures stand."""

    def __init__(self, head: bytes) -> None:
        self.length = len(head)
        self._sectors = {
            start: bytearray(head[start : start + _SECTOR])
            for start in _SECTORS
            if start < len(head)
        }

    def write(self, offset: int, data: bytes | bytearray | memoryview | None, length: int) -> None:
        """``length`` bytes were written at ``offset``; zeros where ``data`` is None."""
        for start, sector in self._sectors.items():
            begin, end = max(start, offset), min(start + len(sector), offset + length)
            if begin < end:
                part = bytes(end - begin) if data is None else data[begin - offset : end - offset]
                sector[begin - start : end - start] = part

    def __getitem__(self, place: slice) -> bytes:
        """Bytes that lie within one of the sectors; less or none beyond the end."""
        start = place.start // _SECTOR * _SECTOR
        return bytes(self._sectors.get(start, b"")[place.start - start : place.stop - start])


Possible = tuple[frozenset[str | None], ...]
"""For each place of ``_SIGNATURES``, what may stand in it."""


def _signatures(head: bytes | bytearray | memoryview | _Shadow) -> tuple[str | None, ...]:
    """What stands in each place of ``_SIGNATURES``."""
    found: list[str | None] = []
    for kind, magic_at, magic, uuid_at, length in _SIGNATURES:
        uuid = bytes(head[uuid_at : uuid_at + length])
        there = bytes(head[magic_at : magic_at + len(magic)]) == magic
        # A boot sector without a disk signature says nothing about which disk it is.
        found.append(f"{kind}.{uuid.hex()}" if there and (kind != "mbr" or any(uuid)) else None)
    return tuple(found)


def _present(signatures: tuple[str | None, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for each in signatures if each is not None))


def read_witnesses(head: bytes | bytearray | memoryview | _Shadow) -> tuple[str, ...]:
    """The UUIDs and signatures at the start of a disk, e.g. ``("ext.1b4e28ba…",)``.

    ``head`` is the first WITNESS_BYTES (or all of a smaller disk). Empty where none is known: a
    blank disk, or a kind of content that is not known here.
    """
    return _present(_signatures(head))


class ContentWitness:
    """What the start of the disk must look like, kept up to date by our own writes.

    Our own mkfs changes the UUIDs; so the start of the disk is shadowed: every write to it is
    applied here too. While writes to the start are under way, or after one whose outcome nobody
    knows, any of them may have landed and any not, block by block: then each signature may be any
    of those that stood in its place since.
    """

    def __init__(self, head: bytes) -> None:
        self._shadow = _Shadow(head)
        self._in_flight = 0
        self._trusted = True
        self._possible: list[set[str | None]] | None = None
        self.generation = 0
        """Counts the writes: what was read while it moved may be a mixture of old and new."""
        self.refresh(head)

    @classmethod
    def remembered(cls, length: int, possible: Possible | None) -> ContentWitness:
        """The witness of an earlier user of the disk, who left word of its ``possible`` contents.
        It is stale: what the blocks hold besides was not handed on."""
        witness = cls(bytes(length))
        witness._trusted = False
        if possible is not None and len(possible) != len(_SIGNATURES):
            possible = None  # from a version that knew other kinds: it cannot be compared
        witness._possible = None if possible is None else [set(values) for values in possible]
        return witness

    @property
    def possible(self) -> Possible | None:
        """What may stand in each place; None where anything may."""
        if self._possible is None:
            return None
        return tuple(frozenset(values) for values in self._possible)

    @property
    def length(self) -> int:
        """Bytes at the start that are watched."""
        return self._shadow.length

    @property
    def contents(self) -> tuple[str, ...]:
        """What the start says, as far as it is known."""
        return read_witnesses(self._shadow)

    @property
    def acceptable(self) -> set[tuple[str, ...]]:
        """The contents as last known; empty where nothing is known."""
        return set() if self._possible is None else {self.contents}

    def write_started(
        self, offset: int, data: bytes | bytearray | memoryview | None, length: int
    ) -> None:
        """A write to the start left; ``data`` None writes zeros."""
        self._shadow.write(offset, data, length)
        self._in_flight += 1
        self.generation += 1
        if self._possible is not None:
            for values, found in zip(self._possible, _signatures(self._shadow), strict=True):
                values.add(found)

    def write_ended(self, *, certain: bool) -> None:
        """A write to the start was answered; not ``certain`` where it may be done or not."""
        self._in_flight -= 1
        if not certain:
            self._trusted = False
        elif not self._in_flight and self._trusted:
            self._possible = [{found} for found in _signatures(self._shadow)]

    def forget(self) -> None:
        """The start was changed in a way that cannot be followed: any content is accepted until it
        was read again."""
        self._trusted = False
        self._possible = None

    @property
    def stale(self) -> bool:
        """The start should be read again when nothing writes to it."""
        return not self._trusted and not self._in_flight

    def refresh(self, head: bytes) -> None:
        """The start was read again."""
        self._shadow = _Shadow(head)
        self._trusted = True
        self._possible = [{found} for found in _signatures(head)]

    def check(self, head: bytes) -> None:
        """Compare the start of the disk that answers now.

        Raises:
            IdentityMismatch: it is none of the contents that this disk can have.
        """
        if self._possible is None:
            return
        found = _signatures(head)
        if all(each in values for each, values in zip(found, self._possible, strict=True)):
            return

        def text(signatures: tuple[str, ...]) -> str:
            return ", ".join(signatures) or "no known signature"

        raise IdentityMismatch(
            f"the disk that answers at this address has another content: {text(_present(found))} "
            f"where {text(self.contents)} was; nothing is written to it. Detach the volume, look "
            f"at the target"
        )
