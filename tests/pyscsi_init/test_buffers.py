# SPDX-License-Identifier: Apache-2.0
"""What callers give for memory, seen as bytes or refused."""

from __future__ import annotations

import array
import mmap
from typing import Any

import pytest

from pyscsi_init.buffers import byte_view

WORDS = array.array("I", [1, 2, 3])


@pytest.mark.parametrize(
    "data",
    [
        b"abc",
        bytearray(b"abc"),
        b"",
        memoryview(b"abcdef")[2:5],
        WORDS,
        memoryview(WORDS),
        memoryview(bytes(range(8))).cast("B", (2, 4)),
        mmap.mmap(-1, 16),
    ],
    ids=lambda data: type(data).__name__,
)
def test_any_memory_in_one_piece_is_its_bytes(data: Any) -> None:
    view = byte_view("test", data)
    assert (view.format, view.ndim, view.itemsize) == ("B", 1, 1)
    assert bytes(view) == memoryview(data).tobytes()


@pytest.mark.parametrize("data", ["abc", None, 5, [1, 2], 1.5])
def test_no_memory(data: Any) -> None:
    with pytest.raises(TypeError, match=f"^test: .*{type(data).__name__}"):
        byte_view("test", data)


@pytest.mark.parametrize("step", [2, -1])
def test_memory_with_gaps(step: int) -> None:
    with pytest.raises(BufferError, match=r"test: .*gaps"):
        byte_view("test", memoryview(b"abcdef")[::step])


@pytest.mark.parametrize(
    "data", [b"abc", memoryview(b"abc"), mmap.mmap(-1, 16, prot=mmap.PROT_READ)]
)
def test_memory_that_cannot_be_filled(data: Any) -> None:
    with pytest.raises(TypeError, match="read-only"):
        byte_view("test", data, writable=True)


def test_what_is_filled_is_the_callers_own() -> None:
    words = array.array("I", [0, 0])
    byte_view("test", words, writable=True)[:4] = b"\1\0\0\0"  # type: ignore[arg-type]
    assert words[0].to_bytes(4, "little") == b"\1\0\0\0"
