# SPDX-License-Identifier: Apache-2.0
"""The block file: what each file operation means for the block device behind it.

One directory, one file, as long as the device; reading and writing clamp at its end as a disk does,
fsync is FLUSH, a punched hole reads as zeros. Both channels ask here and only move bytes, so that
they cannot differ. It knows block devices and errno, and nothing of /dev/fuse or libfuse.

Linux promises zeros in a punched hole, and a loop device relies on it. So a hole becomes DISCARD
only where the device promises zeros, and then only in whole discard granules: a device may ignore
the rest of a granule, which becomes WRITE_ZEROES. Without the promise a hole is refused: to write
zeros instead would turn the trim of a filesystem into writing all of its free space.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

from pyscsi_init.device.alignment import AlignmentDevice
from pyscsi_init.device.interface import BlockDevice, BlockRequest, Operation
from pyscsi_init.device.splitting import SplittingDevice

from .abi import MAX_WRITE, ROOT_ID, Attributes

FILE_ID = 2
DIRECTORY_TYPE = 4
FILE_TYPE = 8

KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
ZERO_RANGE = 0x10

_W_OK = 2
_ATTRIBUTES_OF_OWNERSHIP = 0x07
"""FATTR_MODE, FATTR_UID, FATTR_GID."""

Step = tuple[Operation, int, int]


def any_request(device: BlockDevice) -> BlockDevice:
    """``device``, taking requests of any alignment and length: a file is read by bytes."""
    limits = device.limits
    if limits.max_transfer_bytes or limits.max_discard_bytes or limits.max_write_zeroes_bytes:
        device = SplittingDevice(device)
    if not device.any_alignment:
        device = AlignmentDevice(device)
    return device


class BlockFile:
    """The file ``name`` over ``device``. Refusals are positive errnos; 0 means granted.

    With ``fua`` whatever changes the device is on stable storage before it is answered, as if every
    opener had said O_DSYNC; a channel asks for it with each request that it makes.
    """

    def __init__(
        self,
        device: BlockDevice,
        *,
        read_only: bool = False,
        name: str = "lun",
        fua: bool = False,
    ) -> None:
        self.device = any_request(device)
        self.read_only = read_only or device.read_only
        self.fua = fua
        self.name = name
        self.encoded_name = os.fsencode(name)
        self._time_s = int(time.time())
        self._uid = os.geteuid()
        self._gid = os.getegid()

    @property
    def size(self) -> int:
        """The length of the file: the device's, at this moment."""
        return self.device.size_bytes

    # -- names and attributes -------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes) -> int:
        """The node of a name in a directory, or 0."""
        if parent != ROOT_ID:
            return 0
        if name == self.encoded_name:
            return FILE_ID
        return ROOT_ID if name in (b".", b"..") else 0

    def attributes(self, node: int) -> Attributes:
        """What stat shows of the directory or of the file."""
        is_root = node == ROOT_ID
        file_mode = stat.S_IFREG | (0o400 if self.read_only else 0o600)
        return Attributes(
            node=node,
            size=0 if is_root else self.size,
            mode=stat.S_IFDIR | 0o555 if is_root else file_mode,
            uid=self._uid,
            gid=self._gid,
            time_s=self._time_s,
        )

    def entries(self) -> list[tuple[bytes, int, int]]:
        """The directory: name, node, type."""
        return [
            (b".", ROOT_ID, DIRECTORY_TYPE),
            (b"..", ROOT_ID, DIRECTORY_TYPE),
            (self.encoded_name, FILE_ID, FILE_TYPE),
        ]

    # -- may it be done -------------------------------------------------------------------------

    def refuse_open(self, node: int, flags: int) -> int:
        """O_TRUNC is no reason to refuse: the kernel asks for the new size by itself."""
        if node != FILE_ID:
            return errno.EISDIR if node == ROOT_ID else errno.ENOENT
        if self.read_only and flags & os.O_ACCMODE != os.O_RDONLY:
            return errno.EROFS
        return 0

    def refuse_access(self, mask: int) -> int:
        """access(2) with default permissions off."""
        return errno.EROFS if self.read_only and mask & _W_OK else 0

    def refuse_attributes(self, valid: int) -> int:
        """Times may be set and are forgotten; owner and mode are not the file's to give away."""
        return errno.EPERM if valid & _ATTRIBUTES_OF_OWNERSHIP else 0

    def refuse_size(self, size: int) -> int:
        """The device alone decides how long the file is; to set what it is, is granted."""
        return 0 if size == self.size else errno.EPERM

    # -- ranges ---------------------------------------------------------------------------------

    def readable(self, offset: int, size: int) -> int:
        """How much of the range there is to read."""
        left = self.device.size_bytes - offset
        return size if size <= left else max(left, 0)

    def refuse_write(self, offset: int, size: int) -> int:
        """A write that begins beyond the end finds no room; one that crosses it is cut."""
        if self.read_only:
            return errno.EROFS
        return errno.ENOSPC if size and offset >= self.device.size_bytes else 0

    def fallocate(self, mode: int, offset: int, length: int) -> list[Step]:
        """What is to be done for fallocate(2), in order.

        Raises:
            OSError: EROFS, EOPNOTSUPP (also for plain allocation: every block is there already, but
                whether the device has room behind it nobody knows), ENOSPC beyond the end.
        """
        device = self.device
        if self.read_only:
            raise OSError(errno.EROFS, "the device is read-only")
        end = offset + length
        if mode == PUNCH_HOLE | KEEP_SIZE and device.can_discard and device.discard_zeroes:
            end = min(end, device.size_bytes)
            return self._hole(offset, end) if offset < end else []
        if mode & ~KEEP_SIZE == ZERO_RANGE and device.can_write_zeroes:
            if end > device.size_bytes and not mode & KEEP_SIZE:
                raise OSError(errno.ENOSPC, "the device ends before the range")
            end = min(end, device.size_bytes)
            return [(Operation.WRITE_ZEROES, offset, end - offset)] if offset < end else []
        raise OSError(errno.EOPNOTSUPP, "the device has no such operation")

    def _hole(self, start: int, end: int) -> list[Step]:
        device = self.device
        limits = device.limits
        granule = max(limits.discard_granularity_bytes, device.block_size)
        origin = limits.discard_alignment_bytes % granule
        first = -((origin - start) // granule) * granule + origin
        last = (end - origin) // granule * granule + origin
        if granule % device.block_size or origin % device.block_size or first >= last:
            return self._zeroes(start, end)
        discard = (Operation.DISCARD, first, last - first)
        return [*self._zeroes(start, first), discard, *self._zeroes(last, end)]

    def _zeroes(self, start: int, end: int) -> list[Step]:
        if start == end:
            return []
        if self.device.can_write_zeroes:
            return [(Operation.WRITE_ZEROES, start, end - start)]
        # Less than two granules in all, so they are written out where nothing better is there.
        return [
            (Operation.WRITE, offset, min(MAX_WRITE, end - offset))
            for offset in range(start, end, MAX_WRITE)
        ]


def run_steps(
    device: BlockDevice,
    steps: list[Step],
    done: Callable[[Exception | None], None],
    *,
    fua: bool = False,
) -> None:
    """Do the steps one after the other; ``done`` gets the first error, which ends them."""
    if not steps:
        done(None)
        return

    def completion(request: BlockRequest) -> None:
        if request.error is not None:
            done(request.error)
        else:
            run_steps(device, steps[1:], done, fua=fua)

    operation, offset, length = steps[0]
    zeros = bytes(length) if operation is Operation.WRITE else None
    device.submit(BlockRequest(operation, offset, length, zeros, completion, fua=fua))
