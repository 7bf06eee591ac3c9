# SPDX-License-Identifier: Apache-2.0
"""Whether a device is blank: read, not guessed.

"No signature was recognised" has been taken for "empty" by others, and disks with data were
formatted: a read error gives no signature either, and so does a filesystem whose first
superblock is lost but whose data is whole. Here blank means that bytes were read through the
device, past the page cache, without an error, and every one of them is zero: the first 4 MiB,
the last 1 MiB, the places of backup superblocks (ext2/3/4 of every block size, btrfs mirrors,
the usual XFS allocation groups), and samples spread over the rest.

It also recognises ext backup superblocks by their fields, since libblkid looks at the first only.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from fusefs.errors import CallFailed, DeviceBusy
from fusefs.host.busy import device_mounts, device_users
from fusefs.host.records import BlankCheck, Signature

HEAD_BYTES = 4 << 20
TAIL_BYTES = 1 << 20
SAMPLE_BYTES = 4096
SAMPLES = 64

# In 1009ths of the device: a prime, so that none is at the head of a block group, an allocation
# group or another part that mkfs makes by round numbers; and none is in the middle (journals).
_MARKS, _MARKS_OF = (100, 179, 305, 352, 415, 604, 683, 730, 841, 920), 1009

_CHUNK = 1 << 20

# linux/fs/ext4/ext4.h, struct ext4_super_block
_EXT_LOG_BLOCK_SIZE = 0x18
_EXT_MAGIC_OFFSET = 0x38
_EXT_MAGIC = 0xEF53
_EXT_GROUP_NUMBER = 0x5A
_EXT_UUID = 0x68
_EXT_LABEL = 0x78
_EXT_BLOCK_SIZES = tuple(1024 << shift for shift in range(7))
# sparse_super keeps backups in groups 0, 1 and the powers of 3, 5 and 7; bigalloc makes groups
# larger by its cluster ratio, which is 16 by default.
_EXT_BACKUP_GROUPS = (1, 3, 5, 7, 9, 25, 27, 49)
_EXT_GROUP_FACTORS = (1, 16)
_EXT_MAX_BLOCKS_PER_GROUP = 65528

_BTRFS_MIRRORS = (64 << 20, 256 << 30)
_XFS_DEFAULT_GROUPS = 4


class DirectReader:
    """Reads of a block device that do not come from the page cache.

    With ``exclusive`` the device is claimed while it is open: nobody can mount it in the meantime.
    """

    def __init__(self, device: str, *, exclusive: bool = False) -> None:
        self.device = device
        flags = os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | (os.O_EXCL if exclusive else 0)
        self._fd = open_device(device, flags)
        self.size = os.lseek(self._fd, 0, os.SEEK_END)
        self._buffer = mmap.mmap(-1, _CHUNK)
        # 4096 suits every device; one with larger blocks is asked in those.
        self._step = max(4096, _logical_block_size(self._fd))

    def __enter__(self) -> DirectReader:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        self._buffer.close()

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there; fewer only at the end of the device.

        Raises:
            CallFailed: the device reports an error; never taken for "nothing there".
        """
        start = offset - offset % self._step
        end = min(self.size, -(-(offset + length) // self._step) * self._step)
        pieces: list[bytes] = []
        while start < end:
            want = min(_CHUNK, end - start)
            try:
                got = os.preadv(self._fd, [memoryview(self._buffer)[:want]], start)
            except OSError as fault:
                raise CallFailed(
                    "read",
                    f"{self.device} at byte {start}",
                    fault.errno or 0,
                    remedy="the target does not answer, or reports a medium error",
                ) from fault
            if got == 0:
                break
            pieces.append(self._buffer[:got])
            start += got
        skip = offset % self._step
        return b"".join(pieces)[skip : skip + length]


def open_device(device: str, flags: int) -> int:
    """A descriptor of a block device.

    Raises:
        DeviceBusy: it is to be claimed, and somebody has it (who).
        CallFailed: it cannot be opened.
    """
    try:
        return os.open(device, flags)
    except OSError as fault:
        if fault.errno == errno.EBUSY:
            raise _busy(device) from fault
        raise CallFailed("open", device, fault.errno or 0) from fault


def _busy(device: str) -> DeviceBusy:
    number = Path(device).stat().st_rdev
    return DeviceBusy(
        device,
        users=device_users(device),
        mounts=device_mounts(os.major(number), os.minor(number)),
    )


def _logical_block_size(fd: int) -> int:
    number = os.fstat(fd).st_rdev
    path = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/queue/logical_block_size")
    try:
        return int(path.read_text())
    except OSError:
        return 4096  # a partition has no queue of its own


def ext_backup_positions(size: int) -> list[int]:
    """Where ext2/3/4 may keep backup superblocks on a device of this size, ascending."""
    found: set[int] = set()
    for block_size in _EXT_BLOCK_SIZES:
        first_data_block = 1 if block_size == 1024 else 0
        per_group = min(8 * block_size, _EXT_MAX_BLOCKS_PER_GROUP)
        for factor in _EXT_GROUP_FACTORS:
            for group in _EXT_BACKUP_GROUPS:
                found.add((group * per_group * factor + first_data_block) * block_size)
    return sorted(offset for offset in found if offset + SAMPLE_BYTES <= size)


def mark_places(size: int) -> list[int]:
    """Where format_mark.py puts its blocks on a device of this size, ascending."""
    found = {size * part // _MARKS_OF // 4096 * 4096 for part in _MARKS}
    return sorted(at for at in found if at > 0 and at + SAMPLE_BYTES <= size)


def positions(size: int) -> Iterator[tuple[int, int]]:
    """The ranges (offset, length) that must be zero on a blank device of this size."""
    yield 0, min(size, HEAD_BYTES)
    if size > HEAD_BYTES:
        yield max(HEAD_BYTES, size - TAIL_BYTES), min(TAIL_BYTES, size - HEAD_BYTES)
    groups = -(-(size // 4096) // _XFS_DEFAULT_GROUPS) * 4096
    single = {
        *ext_backup_positions(size),
        *_BTRFS_MIRRORS,
        *(groups * number for number in range(1, _XFS_DEFAULT_GROUPS)),
        *mark_places(size),
        *(size // SAMPLES * number // 4096 * 4096 for number in range(1, SAMPLES)),
    }
    for offset in sorted(single):
        if offset >= HEAD_BYTES and offset + SAMPLE_BYTES <= size - TAIL_BYTES:
            yield offset, SAMPLE_BYTES


def check_blank(reader: DirectReader) -> BlankCheck:
    """Read what must be zero, up to the first byte that is not."""
    total = 0
    for offset, length in positions(reader.size):
        for start in range(offset, offset + length, _CHUNK):
            want = min(_CHUNK, offset + length - start)
            data = reader.read(start, want)
            total += len(data)
            rest = data.lstrip(b"\0")
            if rest:
                return BlankCheck(reader.device, total, start + len(data) - len(rest))
            if len(data) < want:
                raise CallFailed("read", f"{reader.device} at byte {start}", errno.EIO)
    return BlankCheck(reader.device, total)


def find_ext_backups(reader: DirectReader) -> list[Signature]:
    """The ext2/3/4 backup superblocks on the device."""
    found: list[Signature] = []
    for offset in ext_backup_positions(reader.size):
        block = reader.read(offset, 1024)
        if len(block) < 1024:
            continue
        (magic,) = struct.unpack_from("<H", block, _EXT_MAGIC_OFFSET)
        (shift,) = struct.unpack_from("<I", block, _EXT_LOG_BLOCK_SIZE)
        (group,) = struct.unpack_from("<H", block, _EXT_GROUP_NUMBER)
        # The first superblock has group 0; a backup says which group it is the head of. A file that
        # holds an image of ext4 can show a magic here too, but hardly all three.
        if magic == _EXT_MAGIC and shift < len(_EXT_BLOCK_SIZES) and group in _EXT_BACKUP_GROUPS:
            raw = block[_EXT_UUID : _EXT_UUID + 16].hex()
            found.append(
                Signature(
                    type="ext2/3/4",
                    usage="backup",
                    offset=offset,
                    uuid="-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:])),
                    label=block[_EXT_LABEL : _EXT_LABEL + 16]
                    .rstrip(b"\0")
                    .decode("utf-8", "replace"),
                )
            )
    return found
