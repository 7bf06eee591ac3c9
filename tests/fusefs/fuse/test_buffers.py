# SPDX-License-Identifier: Apache-2.0
"""Answer buffers: bounded, never two owners, data at a page where it pays."""

from __future__ import annotations

import ctypes
import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusefs.fuse.buffers import ALIGN_FROM, AnswerBuffers


@given(st.lists(st.integers(1, 1 << 20), max_size=40))
def test_the_pool_is_bounded_and_has_room(sizes: list[int]) -> None:
    buffers = AnswerBuffers(large_pool_bytes=1 << 20)
    taken = [buffers.take(size) for size in sizes]
    for size, buffer in zip(sizes, taken, strict=True):
        assert len(buffer.data) == buffer.capacity >= size
        assert len(buffer.whole) == 16 + buffer.capacity
    assert len({id(buffer.whole.obj) for buffer in taken}) == len(taken), "memory has two owners"
    for buffer in taken:
        buffers.give_back(buffer)
    large = [each for pool in buffers.pools.values() for each in pool if each.capacity > 1 << 16]
    assert sum(each.capacity for each in large) == buffers._large_bytes <= 1 << 20


def test_memory_is_used_again() -> None:
    buffers = AnswerBuffers()
    first = buffers.take(5000)
    buffers.give_back(first)
    assert buffers.take(8192) is first


def test_after_a_trim_nothing_is_kept() -> None:
    buffers = AnswerBuffers()
    for size in (4096, 1 << 20):
        buffers.give_back(buffers.take(size))
    pool = buffers.pools[4096]
    buffers.trim()
    assert not any(buffers.pools.values())
    assert buffers.small_pools[4096] is pool, "whoever holds the lists would go on with old ones"
    buffers.give_back(buffers.take(1 << 20))
    assert buffers._large_bytes == 1 << 20


@pytest.mark.parametrize("size", [ALIGN_FROM, 1 << 20])
def test_data_of_long_answers_begins_at_a_page(size: int) -> None:
    data = AnswerBuffers().take(size).data
    assert ctypes.addressof(ctypes.c_char.from_buffer(data)) % mmap.PAGESIZE == 0
