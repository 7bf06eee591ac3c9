# SPDX-License-Identifier: Apache-2.0
"""Is it the same unit: what it says of itself, and what its content says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.device.identity import (
    WITNESS_BYTES,
    ContentWitness,
    Identity,
    check_same_unit,
    read_witnesses,
)
from pyscsi_init.errors import CapacityShrunk, IdentityMismatch

OLD = Identity(("naa.1", "eui.2"), "SER", "V", "P", 512, 1000)
BLOCK = 512


@pytest.mark.conformance("SCSI-016")
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({}, None),
        ({"size_bytes": 2000}, None),
        ({"size_bytes": 999}, CapacityShrunk),
        ({"designators": ("naa.1",)}, IdentityMismatch),
        ({"designators": ()}, IdentityMismatch),
        ({"serial_number": "OTHER"}, IdentityMismatch),
        ({"vendor": "X"}, IdentityMismatch),
        ({"product": "X"}, IdentityMismatch),
        ({"block_size": 4096}, IdentityMismatch),
        ({"block_size": 4096, "size_bytes": 1}, IdentityMismatch),
        ({"witnesses": ("ext.1",)}, None),
    ],
)
def test_scsi_016_what_makes_another_unit(
    change: dict[str, Any], error: type[Exception] | None
) -> None:
    new = replace(OLD, **change)
    if error is None:
        check_same_unit(OLD, new)
    else:
        with pytest.raises(error):
            check_same_unit(OLD, new)


def test_names_and_keys() -> None:
    assert OLD.name == "naa.1"
    assert replace(OLD, designators=()).name == "serial.SER"
    assert replace(OLD, designators=(), serial_number="").name == "unidentified"
    assert OLD.key == replace(OLD, designators=("eui.2", "naa.1"), size_bytes=5).key
    assert replace(OLD, size_bytes=5) == OLD


def ext(uuid: bytes) -> tuple[int, bytes]:
    """The block with an ext superblock's magic and UUID: offset and content."""
    block = bytearray(BLOCK)
    block[56:58] = b"\x53\xef"
    block[104:120] = uuid
    return 1024, bytes(block)


def xfs(uuid: bytes) -> tuple[int, bytes]:
    return 0, (b"XFSB" + bytes(28) + uuid).ljust(BLOCK, b"\0")


def btrfs(uuid: bytes) -> tuple[int, bytes]:
    block = bytearray(BLOCK)
    block[32:48] = uuid
    block[64:72] = b"_BHRfS_M"
    return 65536, bytes(block)


def gpt(uuid: bytes) -> tuple[int, bytes]:
    return 512, (b"EFI PART" + bytes(48) + uuid).ljust(BLOCK, b"\0")


def lvm(uuid: bytes) -> tuple[int, bytes]:
    return 512, (b"LABELONE" + bytes(24) + uuid * 2).ljust(BLOCK, b"\0")


def zero(offset: int) -> tuple[int, bytes]:
    return offset, bytes(BLOCK)


UUID_A, UUID_B = bytes(range(16)), bytes(range(100, 116))


def head(*blocks: tuple[int, bytes]) -> bytearray:
    disk = bytearray(WITNESS_BYTES)
    for offset, block in blocks:
        disk[offset : offset + len(block)] = block
    return disk


@pytest.mark.parametrize(
    ("make", "kind"), [(ext, "ext"), (xfs, "xfs"), (btrfs, "btrfs"), (gpt, "gpt")]
)
def test_witnesses_are_read(make: Any, kind: str) -> None:
    assert read_witnesses(head(make(UUID_A))) == (f"{kind}.{UUID_A.hex()}",)


def test_more_witnesses() -> None:
    assert read_witnesses(head(lvm(UUID_A))) == (f"lvm.{(UUID_A * 2).hex()}",)
    assert read_witnesses(head((0, b"LUKS\xba\xbe".ljust(168, b"\0") + b"u" * 36))) == (
        f"luks.{(b'u' * 36).hex()}",
    )
    mbr = head((440, b"\1\2\3\4"), (510, b"\x55\xaa"))
    assert read_witnesses(mbr) == ("mbr.01020304",)
    assert read_witnesses(head((510, b"\x55\xaa"))) == ()  # a boot sector says nothing
    assert read_witnesses(head(ext(UUID_A), btrfs(UUID_B))) == (
        f"ext.{UUID_A.hex()}",
        f"btrfs.{UUID_B.hex()}",
    )


@pytest.mark.parametrize("length", [0, 1, 512, 1100, 4096, WITNESS_BYTES])
def test_disks_smaller_than_the_signatures(length: int) -> None:
    assert read_witnesses(bytes(length)) == ()
    assert read_witnesses(b"\xff" * length) == ()
    ContentWitness(bytes(length)).check(bytes(length))


def test_another_content_is_another_disk() -> None:
    witness = ContentWitness(bytes(head(ext(UUID_A))))
    witness.check(bytes(head(ext(UUID_A), (4096, b"data"))))
    for other in (head(ext(UUID_B)), head(), head(ext(UUID_A), btrfs(UUID_B))):
        with pytest.raises(IdentityMismatch, match="nothing is written"):
            witness.check(bytes(other))


def test_a_new_filesystem_of_our_own_is_known() -> None:
    disk = head(ext(UUID_A))
    witness = ContentWitness(bytes(disk))
    for offset, block in (zero(1024), xfs(UUID_B)):
        witness.write_started(offset, block, BLOCK)
        witness.write_ended(certain=True)
        disk[offset : offset + BLOCK] = block
    assert witness.contents == (f"xfs.{UUID_B.hex()}",)
    witness.check(bytes(disk))
    with pytest.raises(IdentityMismatch):
        witness.check(bytes(head(ext(UUID_A))))


def test_two_writes_under_way_may_land_in_any_order() -> None:
    """Wiping the old and writing the new are under way together when the session dies: each may be
    done or not, and every mixture is still this disk."""
    for wiped in (False, True):
        for written in (False, True):
            witness = ContentWitness(bytes(head(ext(UUID_A))))
            witness.write_started(*zero(1024), BLOCK)
            witness.write_started(*xfs(UUID_B), BLOCK)
            blocks = [] if wiped else [ext(UUID_A)]
            blocks += [xfs(UUID_B)] if written else []
            witness.check(bytes(head(*blocks)))
            with pytest.raises(IdentityMismatch):
                witness.check(bytes(head(ext(UUID_B))))


def test_what_cannot_be_followed_is_accepted_until_it_was_read() -> None:
    """A discard of the whole disk, then writes: what the first blocks read as nobody knows."""
    witness = ContentWitness(bytes(head(ext(UUID_A))))
    witness.write_started(0, None, 0)
    witness.forget()
    witness.write_started(*xfs(UUID_B), BLOCK)
    for content in (head(), head(ext(UUID_A)), head(xfs(UUID_B)), head(ext(UUID_A), xfs(UUID_B))):
        witness.check(bytes(content))
    assert not witness.stale
    witness.write_ended(certain=True)
    witness.write_ended(certain=True)
    assert witness.stale
    witness.refresh(bytes(head(xfs(UUID_B))))
    assert not witness.stale
    with pytest.raises(IdentityMismatch):
        witness.check(bytes(head(ext(UUID_A))))


SIGNATURES = st.one_of(
    *(st.builds(make, st.sampled_from([UUID_A, UUID_B])) for make in (ext, xfs, btrfs, gpt, lvm)),
    st.sampled_from([zero(offset) for offset in (0, 512, 1024, 65536)]),
)


@given(data=st.data())
def test_every_content_that_can_be_is_accepted(data: st.DataObject) -> None:
    """Writes start and end in any order, with or without a known outcome; whatever subset of the
    open ones has landed, block by block, the disk is accepted. And once all is certain again, only
    the one content is."""
    initial = head(*data.draw(st.lists(SIGNATURES, max_size=3)))
    # What may stand in each block: the certain content, or any that was written over it since.
    possible: dict[int, list[bytes]] = {}
    current = bytearray(initial)
    witness = ContentWitness(bytes(initial))
    open_writes = 0
    doubt = False
    for _ in range(data.draw(st.integers(1, 12))):
        if open_writes and data.draw(st.booleans()):
            open_writes -= 1
            certain = data.draw(st.booleans())
            doubt = doubt or not certain
            witness.write_ended(certain=certain)
            if not open_writes and not doubt:
                possible.clear()
        else:
            offset, block = data.draw(SIGNATURES)
            before = bytes(current[offset : offset + BLOCK])
            possible.setdefault(offset, [before]).append(block)
            current[offset : offset + BLOCK] = block
            witness.write_started(offset, None if not any(block) else block, BLOCK)
            open_writes += 1
        found = bytearray(current)
        for offset, blocks in possible.items():
            found[offset : offset + BLOCK] = data.draw(st.sampled_from(blocks))
        witness.check(bytes(found))
    for _ in range(open_writes):
        witness.write_ended(certain=True)
    if not doubt:
        assert witness.acceptable == {read_witnesses(current)}
        witness.check(bytes(current))
        stranger = head(ext(bytes(16)))
        with pytest.raises(IdentityMismatch):
            witness.check(bytes(stranger))
