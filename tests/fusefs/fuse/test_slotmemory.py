# SPDX-License-Identifier: Apache-2.0
"""The memfd: what is in it survives, what is not ours is refused, and memory is given back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusefs.fuse import slotmemory
from fusefs.fuse.abi import InitReply
from fusefs.fuse.slotmemory import BIG_BYTES, MAX_NOTE_BYTES, SMALL_BYTES, SlotMemory

INIT = InitReply(
    minor=38, flags=1 << 39 | 5, max_readahead=7, max_background=128, congestion_threshold=96
)


@pytest.fixture
def memory() -> Iterator[SlotMemory]:
    memory = SlotMemory(SlotMemory.create(8, 3))
    yield memory
    memory.close()


@contextlib.contextmanager
def again(memory: SlotMemory) -> Iterator[SlotMemory]:
    """As another process maps it."""
    with contextlib.closing(SlotMemory(os.dup(memory.fd))) as other:
        yield other


def facts(memory: SlotMemory) -> tuple[InitReply | None, bytes]:
    """INIT and the note, as another process sees them."""
    with again(memory) as other:
        return other.init, other.note


def used(memory: SlotMemory) -> int:
    """Bytes of the memfd that are in memory."""
    return os.fstat(memory.fd).st_blocks * 512


def test_it_costs_nothing_until_it_is_used(memory: SlotMemory) -> None:
    assert used(memory) == 4096


def test_init_is_found_by_another(memory: SlotMemory) -> None:
    assert facts(memory)[0] is None
    memory.init = INIT
    assert facts(memory)[0] == INIT
    memory.init = None
    assert facts(memory)[0] is None


@given(st.lists(st.binary(max_size=300) | st.just(b"x" * MAX_NOTE_BYTES), max_size=5))
def test_the_last_note_is_found_by_another(notes: list[bytes]) -> None:
    memory = SlotMemory(SlotMemory.create(8, 3))
    for note in notes:
        memory.note = note
    assert facts(memory)[1] == (notes[-1] if notes else b"")
    memory.close()


def test_a_note_that_is_too_long_changes_nothing(memory: SlotMemory) -> None:
    memory.note = b"old"
    with pytest.raises(ValueError, match="65537 bytes"):
        memory.note = bytes(MAX_NOTE_BYTES + 1)
    assert memory.note == b"old"


@given(st.integers(1, 6), st.binary(min_size=1, max_size=90), st.binary(max_size=90), st.data())
def test_a_note_that_is_torn_anywhere_leaves_the_old_one(
    before: int, old: bytes, new: bytes, data: st.DataObject
) -> None:
    """Whatever part of the bytes that setting a note changes has been changed, in whatever order:
    a reader finds the old note or the new one."""
    memory = SlotMemory(SlotMemory.create(8, 3))
    for number in range(before):
        memory.note = b"%d" % number
    memory.note = old
    untouched = bytes(memory._whole[: slotmemory._TABLE_OFFSET])
    memory.note = new
    written = bytes(memory._whole[: slotmemory._TABLE_OFFSET])
    changed = [at for at, (a, b) in enumerate(zip(untouched, written, strict=True)) if a != b]
    done = data.draw(st.sets(st.sampled_from(changed)))
    memory._whole[: len(untouched)] = untouched
    for at in done:
        memory._whole[at] = written[at]
    assert facts(memory)[1] == (new if len(done) == len(changed) else old)
    # And it can be set again, as if nothing had been.
    memory.note = b"next"
    assert facts(memory)[1] == b"next"
    memory.close()


def test_areas_are_apart_and_shared(memory: SlotMemory) -> None:
    views = [memory.small_area(slot) for slot in range(8)]
    views += [memory.big_area(area) for area in range(3)]
    memory.init, memory.note = INIT, b"note"
    for number, view in enumerate(views):
        view[:] = bytes((number + 1,)) * len(view)
    memory.table[:] = b"\xff" * len(memory.table)
    with again(memory) as other:
        seen = [other.small_area(slot) for slot in range(8)]
        seen += [other.big_area(area) for area in range(3)]
        for number, view in enumerate(seen):
            assert bytes(view) == bytes((number + 1,)) * len(view)
    assert facts(memory) == (INIT, b"note")


def test_memory_is_given_back(memory: SlotMemory) -> None:
    base = used(memory)
    memory.populate_big_area(1)
    assert used(memory) == base + BIG_BYTES
    memory.big_area(1)[:5] = b"hello"
    memory.small_area(2)[:] = b"x" * SMALL_BYTES
    memory.give_back_big(1)
    assert used(memory) == base + SMALL_BYTES
    memory.give_back_small(2)
    assert used(memory) == base + 4096
    assert bytes(memory.big_area(1)[:5]) == bytes(5)
    assert bytes(memory.small_area(2)[:4097]) == b"x" * 4096 + b"\0"


def test_populating_without_the_kernels_help(
    memory: SlotMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 5.14 answers EINVAL, as any kernel does to a number that it does not know."""
    monkeypatch.setattr(slotmemory, "_MADV_POPULATE_WRITE", 9999)
    memory.big_area(0)[:5] = b"hello"
    base = used(memory)
    memory.populate_big_area(0)
    assert used(memory) == base + BIG_BYTES - 4096
    assert bytes(memory.big_area(0)[:5]) == b"hello"


def test_it_cannot_be_cut_off(memory: SlotMemory) -> None:
    for size in (0, 1 << 40):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, size)


def test_what_is_not_ours_is_refused() -> None:
    fd = os.memfd_create("other")
    with pytest.raises(ValueError, match="a file of 0 bytes"):
        SlotMemory(fd)
    os.ftruncate(fd, 1 << 24)
    with pytest.raises(ValueError, match="begins with"):
        SlotMemory(fd)
    os.pwrite(fd, slotmemory._SUPERBLOCK.pack(b"PSI-slot", 2, 1, 1, 1, 1, 1), 0)
    with pytest.raises(ValueError, match="version 2; this code knows 1"):
        SlotMemory(fd)
    os.pwrite(fd, slotmemory._SUPERBLOCK.pack(b"PSI-slot", 1, 8, 3, 64, 1 << 16, BIG_BYTES), 0)
    with pytest.raises(ValueError, match="another layout: 8 slots of 64"):
        SlotMemory(fd)
    layout = (128, SMALL_BYTES, BIG_BYTES)
    os.pwrite(fd, slotmemory._SUPERBLOCK.pack(b"PSI-slot", 1, 8, 3, *layout), 0)
    with pytest.raises(ValueError, match="in a file of 16777216 bytes"):
        SlotMemory(fd)
    os.close(fd)
