# SPDX-License-Identifier: Apache-2.0
"""Slots and answer buffers: bounded, never two owners."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusefs.fuse.buffers import SLOT_BYTES, RequestBuffers


def test_kept_slots_are_not_read_into() -> None:
    buffers = RequestBuffers(3)
    kept = []
    for value in (1, 2, 3):
        message = buffers.receiving()
        assert message is not None
        message[:10] = bytes((value,)) * 10
        kept.append((buffers.keep(), message[:10]))
    assert buffers.receiving() is None
    assert buffers.kept == 3
    assert [bytes(view) for _, view in kept] == [b"\1" * 10, b"\2" * 10, b"\3" * 10]
    buffers.release(kept[1][0])
    again = buffers.receiving()
    assert again is not None
    again[:10] = b"\4" * 10
    assert bytes(kept[0][1]) == b"\1" * 10
    assert bytes(kept[2][1]) == b"\3" * 10


def test_a_slot_that_is_not_kept_is_read_into_again() -> None:
    buffers = RequestBuffers(2)
    assert buffers.receiving() is buffers.receiving()
    assert buffers.kept == 0


def test_a_slot_takes_the_longest_message() -> None:
    message = RequestBuffers(2).receiving()
    assert message is not None
    assert len(message) == SLOT_BYTES >= 40 + 40 + (1 << 20)


@given(st.lists(st.integers(1, 1 << 20), max_size=40))
def test_the_pool_is_bounded_and_sizes_are_exact(sizes: list[int]) -> None:
    buffers = RequestBuffers(2, read_pool_bytes=1 << 20)
    taken = [buffers.take(size) for size in sizes]
    assert [len(view) for view in taken] == sizes
    assert len({id(view.obj) for view in taken}) == len(taken), "one memory has two owners"
    for view in taken:
        buffers.give_back(view)
    assert buffers._pool_bytes <= 1 << 20
    assert sum(len(view) for kept in buffers._pool.values() for view in kept) == (
        buffers._pool_bytes
    )


def test_memory_is_used_again() -> None:
    buffers = RequestBuffers(2)
    first = buffers.take(5000)
    memory = first.obj
    buffers.give_back(first)
    assert buffers.take(8192).obj is memory


def test_too_few_slots() -> None:
    with pytest.raises(ValueError, match="slot"):
        RequestBuffers(1)


def test_close_while_a_view_is_left() -> None:
    buffers = RequestBuffers(2)
    message = buffers.receiving()
    assert message is not None
    view = message[:5]
    buffers.close()
    assert bytes(view) == bytes(5)
