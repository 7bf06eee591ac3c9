# SPDX-License-Identifier: Apache-2.0
"""The FUSE structures, byte by byte against the sizes and offsets of linux/fuse.h."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusefs.fuse import abi

ATTRIBUTES = abi.Attributes(node=2, size=5000, mode=0o100600, uid=7, gid=8, time_s=9)


@pytest.mark.parametrize(
    ("packed", "size"),
    [
        (abi.IN_HEADER.size, 40),
        (abi.OUT_HEADER.size, 16),
        (abi.READ_IN.size, 40),
        (abi.WRITE_IN.size, 40),
        (abi.FALLOCATE_IN.size, 32),
        (abi.OPEN_IN.size, 8),
        (abi.ACCESS_IN.size, 8),
        (len(abi.encode_attributes(ATTRIBUTES)), 88),
        (len(abi.entry_out(ATTRIBUTES, 1)), 128),
        (len(abi.attr_out(ATTRIBUTES, 1)), 104),
        (len(abi.open_out(1, 0)), 16),
        (len(abi.statfs_out(1, 512, 1, 255)), 80),
        (len(abi.write_reply(1, 2)), 16 + 8),
        (len(abi.inval_inode(2, -1, 0)), 16 + 24),
    ],
)
def test_sizes(packed: int, size: int) -> None:
    assert packed == size


def test_init_reply_layout() -> None:
    reply = abi.InitReply(
        minor=31,
        flags=abi.InitFlag.ASYNC_DIO | abi.InitFlag.HAS_RESEND,
        max_readahead=1 << 17,
        max_background=128,
        congestion_threshold=96,
    ).encode()
    assert len(reply) == 64
    assert struct.unpack_from("=IIII", reply) == (7, 31, 1 << 17, 1 << 15)
    assert struct.unpack_from("=HHIIHHI", reply, 16) == (128, 96, 1 << 20, 1, 256, 0, 1 << 7)


def test_init_request_with_and_without_the_second_word_of_flags() -> None:
    header = bytes(40)
    old = header + struct.pack("=IIII", 7, 31, 4096, 0x3)
    assert abi.decode_init(memoryview(old)).flags == 3
    flags = abi.InitFlag.INIT_EXT | 0x3
    new = header + struct.pack("=IIIII", 7, 38, 4096, flags, 1 << 7) + bytes(44)
    assert abi.decode_init(memoryview(new)).flags == flags | abi.InitFlag.HAS_RESEND


def test_an_error_is_a_negative_errno() -> None:
    assert struct.unpack("=IiQ", abi.error_reply(77, errno.EIO)) == (16, -errno.EIO, 77)


def test_a_resent_unique_is_echoed_whole() -> None:
    unique = abi.UNIQUE_RESEND | 4
    assert struct.unpack_from("=IiQ", abi.reply(unique))[2] == unique


def test_notifications_carry_their_code_where_the_error_stands() -> None:
    assert struct.unpack("=IiQQqq", abi.inval_inode(2, -1, 0)) == (40, 2, 0, 2, -1, 0)
    assert struct.unpack("=IiQ", abi.resend()) == (16, 7, 0)


def test_blocks_are_counted_in_512_bytes_rounded_up() -> None:
    assert struct.unpack_from("=QQQ", abi.encode_attributes(ATTRIBUTES)) == (2, 5000, 10)


@given(
    names=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    size=st.integers(0, 400),
)
def test_a_directory_read_piece_by_piece_is_the_whole_directory(
    names: list[bytes], size: int
) -> None:
    entries = [(name, index + 1, 8) for index, name in enumerate(names)]
    found: list[bytes] = []
    while True:
        packed = abi.directory(entries, len(found), size)
        assert len(packed) <= size
        assert len(packed) % 8 == 0
        if not packed:
            break
        position = 0
        while position < len(packed):
            node, offset, length, kind = struct.unpack_from("=QQII", packed, position)
            name = packed[position + 24 : position + 24 + length]
            found.append(name)
            assert (node, offset, kind) == (len(found), len(found), 8)
            position += 24 + length + -(24 + length) % 8
    if size >= 24 + 40:
        assert found == names
    else:
        assert found == names[: len(found)]
