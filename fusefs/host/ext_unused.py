# SPDX-License-Identifier: Apache-2.0
"""Whether an ext4 whose primary superblock is missing was ever used, as its backups tell.

mkfs writes the backups before the primary, so they are what it leaves when it is cut off late; but
also what is left of a file system with data when its head is lost. What tells the two apart:

- the kernel writes nothing to ext4 without its journal, and the first transaction of all goes to
  the block behind the journal's superblock. So the head of the journal is zero, but for a
  superblock with the sequence number that mkfs gave it and no log to replay;
- programs that write without the journal (debugfs, fuse2fs) take inodes of the first group first,
  whose bitmap has none in use but those of mkfs.

Where the two cannot be found it counts as used.
"""

from __future__ import annotations

import struct

from fusefs.host.blank import DirectReader

# linux/fs/ext4/ext4.h, struct ext4_super_block
_INODES, _FREE_INODES, _MOUNTS, _FIRST_INODE = 0x00, 0x10, 0x34, 0x54
_LOG_BLOCK_SIZE = 0x18
_JOURNAL_BACKUP_TYPE, _JOURNAL_BLOCKS = 0xFD, 0x10C
_JOURNAL_NODE_BYTES = 60  # i_block of the journal's inode
_INODES_PER_GROUP, _INCOMPATIBLE, _ORPHAN_FILE = 0x28, 0x60, 0x280
_META_BG, _64BIT = 0x10, 0x80
_BITMAP, _BITMAP_HIGH = 0x04, 0x24  # bg_inode_bitmap of struct ext4_group_desc
_EXTENT_MAGIC, _MAX_DEPTH = 0xF30A, 5  # ext4_extents.h
# linux/include/linux/jbd2.h, journal_superblock_t, big-endian
_JOURNAL_MAGIC, _JOURNAL_KINDS = 0xC03B3998, (3, 4)
_SEQUENCE, _START = 0x18, 0x1C
_JOURNAL_HEAD_BYTES = 64 << 10


def unused(reader: DirectReader, backup: int) -> bool:
    """Whether the file system that has a backup superblock there is as mkfs leaves it.

    Raises:
        CallFailed: the device reports an error.
    """
    block = reader.read(backup, 1024)
    inodes, free, first = (_le32(block, at) for at in (_INODES, _FREE_INODES, _FIRST_INODE))
    # Those before the first one are reserved; the first is lost+found, the next an orphan file.
    used = inodes - free
    if used > first + (_le32(block, _ORPHAN_FILE) == first + 1):
        return False
    if _le16(block, _MOUNTS) or block[_JOURNAL_BACKUP_TYPE] != 1:
        return False
    size = 1024 << _le32(block, _LOG_BLOCK_SIZE)
    if _le32(block, _INCOMPATIBLE) & _META_BG:
        return False  # the descriptors are elsewhere
    groups = reader.read(backup + size, 64)
    bitmap = _le32(groups, _BITMAP)
    if _le32(block, _INCOMPATIBLE) & _64BIT:
        bitmap |= _le32(groups, _BITMAP_HIGH) << 32
    inodes_in_use = reader.read(bitmap * size, _le32(block, _INODES_PER_GROUP) // 8)
    if not bitmap or int.from_bytes(inodes_in_use, "little") != (1 << used) - 1:
        return False
    node = block[_JOURNAL_BLOCKS : _JOURNAL_BLOCKS + _JOURNAL_NODE_BYTES]
    journal = _first_block(reader, node, size)
    if not journal:
        return False
    head = reader.read(journal * size, _JOURNAL_HEAD_BYTES)
    return len(head) == _JOURNAL_HEAD_BYTES and _is_new(head)


def _first_block(reader: DirectReader, node: bytes, block_size: int) -> int:
    """Where the file of an extent tree begins; 0 where that is not told."""
    for _ in range(_MAX_DEPTH + 1):
        if len(node) < 24:
            return 0
        magic, entries, _, depth = struct.unpack_from("<4H", node)
        if magic != _EXTENT_MAGIC or not entries or _le32(node, 12):
            return 0
        if depth == 0:
            return _le16(node, 18) << 32 | _le32(node, 20)
        node = reader.read((_le16(node, 20) << 32 | _le32(node, 16)) * block_size, block_size)
    return 0


def _is_new(head: bytes) -> bool:
    if head[1024:].strip(b"\0"):
        return False
    if not head[:1024].strip(b"\0"):
        return True  # mkfs was cut off before it came here
    magic, kind = struct.unpack_from(">2I", head)
    sequence, start = struct.unpack_from(">2I", head, _SEQUENCE)
    return magic == _JOURNAL_MAGIC and kind in _JOURNAL_KINDS and (sequence, start) == (1, 0)


def _le16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def _le32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")
