# SPDX-License-Identifier: Apache-2.0
"""Where the blocks of a logical unit are kept: in memory or in a file.

A :class:`Disk` is storage and nothing else: bytes at offsets, a size, and, when it is thin, which
parts are allocated. It knows no SCSI, no iSCSI and no session; the properties that a logical unit
shows to the outside (block size, write protection, provisioning, serial number) are only carried
here, because it is convenient to write them where the disk is made. A test may look at and change
the content behind the target's back with :meth:`Disk.read` and :meth:`Disk.write`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigurationError

Buffer = bytes | bytearray | memoryview

BLOCK_SIZES = (512, 1024, 2048, 4096)
FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02


class Disk(ABC):
    """Bytes at offsets, with the properties that the logical unit on it will report.

    ``thin`` makes the unit report thin provisioning (LBPME) and take UNMAP. ``serial`` is the unit
    serial number; the designators of the device identification page are made from it. When it is
    not given, each disk gets its own.
    """

    flush_blocks = False
    """True when :meth:`flush` may take long; the target then calls it in a worker thread."""

    _made = 0

    def __init__(
        self,
        size: int,
        *,
        block_size: int = 512,
        read_only: bool = False,
        thin: bool = False,
        serial: str | None = None,
        write_cache: bool = False,
    ) -> None:
        if block_size not in BLOCK_SIZES:
            raise ConfigurationError(
                "block size", block_size, "is no block size of a disk", f"use one of {BLOCK_SIZES}"
            )
        if size <= 0 or size % block_size:
            raise ConfigurationError(
                "disk size", size, f"is not a positive multiple of the block size {block_size}"
            )
        Disk._made += 1
        self.size = size
        self.block_size = block_size
        self.read_only = read_only
        self.thin = thin
        self.serial = serial if serial is not None else f"PYSCSI{Disk._made:08d}"
        self.write_cache = write_cache
        self.flushes = 0
        self._allocated = bytearray(size // block_size) if thin else bytearray()

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``."""
        return self._read(offset, length)

    def write(self, offset: int, data: Buffer) -> None:
        """Store ``data`` at ``offset`` and, when thin, allocate the blocks."""
        self._write(offset, data)
        if self.thin:
            first, end = self._blocks(offset, len(data))
            self._allocated[first:end] = b"\x01" * (end - first)

    def discard(self, offset: int, length: int) -> None:
        """Deallocate a range: it reads as zeros afterwards."""
        self._zero(offset, length)
        if self.thin:
            first, end = self._blocks(offset, length)
            self._allocated[first:end] = bytes(end - first)

    def fill(self, offset: int, length: int, pattern: Buffer) -> None:
        """Repeat ``pattern`` over a range."""
        step = max(len(pattern), 1 << 20) // len(pattern) * len(pattern)
        block = bytes(pattern) * (step // len(pattern))
        done = 0
        while done < length:
            part = min(step, length - done)
            self.write(offset + done, memoryview(block)[:part])
            done += part

    def extents(self, block: int, count: int) -> Iterator[tuple[int, int, bool]]:
        """Runs of (first block, block count, allocated) over ``count`` blocks from ``block``."""
        end = block + count
        if not self.thin:
            yield block, count, True
            return
        while block < end:
            state = self._allocated[block]
            stop = self._allocated.find(1 - state, block, end)
            stop = end if stop < 0 else stop
            yield block, stop - block, bool(state)
            block = stop

    def resize(self, size: int) -> None:
        """Change the size in bytes; what is new reads as zeros."""
        if size <= 0 or size % self.block_size:
            raise ConfigurationError(
                "disk size", size, f"is not a positive multiple of the block size {self.block_size}"
            )
        self._resize(size)
        if self.thin:
            blocks = size // self.block_size
            del self._allocated[blocks:]
            self._allocated.extend(bytes(blocks - len(self._allocated)))
        self.size = size

    def flush(self) -> None:
        """Make what was written durable."""
        self.flushes += 1

    def close(self) -> None:  # noqa: B027 - a disk without resources has nothing to close
        """Give up the storage."""

    def _blocks(self, offset: int, length: int) -> tuple[int, int]:
        return offset // self.block_size, (offset + length) // self.block_size

    @abstractmethod
    def _read(self, offset: int, length: int) -> bytes: ...

    @abstractmethod
    def _write(self, offset: int, data: Buffer) -> None: ...

    @abstractmethod
    def _zero(self, offset: int, length: int) -> None: ...

    @abstractmethod
    def _resize(self, size: int) -> None: ...


class RamDisk(Disk):
    """Memory that is given out page by page when it is first written."""

    def __init__(
        self,
        size: int,
        *,
        block_size: int = 512,
        read_only: bool = False,
        thin: bool = False,
        serial: str | None = None,
        write_cache: bool = False,
    ) -> None:
        super().__init__(
            size,
            block_size=block_size,
            read_only=read_only,
            thin=thin,
            serial=serial,
            write_cache=write_cache,
        )
        self._map = self._new_map(size)

    @staticmethod
    def _new_map(size: int) -> mmap.mmap:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _read(self, offset: int, length: int) -> bytes:
        return self._map[offset : offset + length]

    def _write(self, offset: int, data: Buffer) -> None:
        self._map[offset : offset + len(data)] = data

    def _zero(self, offset: int, length: int) -> None:
        page = mmap.PAGESIZE
        first = -(-offset // page) * page
        last = (offset + length) // page * page
        if first >= last:
            self._map[offset : offset + length] = bytes(length)
            return
        self._map[offset:first] = bytes(first - offset)
        self._map[last : offset + length] = bytes(offset + length - last)
        # Private anonymous pages that are given back read as zeros when they are touched again.
        self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _resize(self, size: int) -> None:
        self._map.resize(size)

    def close(self) -> None:
        self._map.close()


class FileDisk(Disk):
    """A file; ``size`` creates it or changes its size, without it the file's own size holds."""

    flush_blocks = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: int | None = None,
        *,
        block_size: int = 512,
        read_only: bool = False,
        thin: bool = False,
        serial: str | None = None,
        write_cache: bool = True,
    ) -> None:
        self.path = Path(path)
        flags = os.O_RDONLY if read_only and size is None else os.O_RDWR
        if size is not None:
            flags |= os.O_CREAT
        try:
            self._descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                "disk file", str(path), f"cannot be opened ({error.strerror})"
            ) from error
        try:
            if size is not None:
                os.ftruncate(self._descriptor, size)
            super().__init__(
                os.lseek(self._descriptor, 0, os.SEEK_END) if size is None else size,
                block_size=block_size,
                read_only=read_only,
                thin=thin,
                serial=serial,
                write_cache=write_cache,
            )
            if thin:
                self._find_allocated()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _find_allocated(self) -> None:
        """Take over from the file system which parts of a sparse file hold data."""
        position = 0
        while position < self.size:
            try:
                position = os.lseek(self._descriptor, position, os.SEEK_DATA)
            except OSError:  # ENXIO: no data until the end
                return
            end = os.lseek(self._descriptor, position, os.SEEK_HOLE)
            first, last = position // self.block_size, -(-end // self.block_size)
            self._allocated[first:last] = b"\x01" * (last - first)
            position = end

    def _read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        # A file that somebody made shorter behind our back reads as zeros.
        return data if len(data) == length else data + bytes(length - len(data))

    def _write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            offset += written
            view = view[written:]

    def _zero(self, offset: int, length: int) -> None:
        if _punch_hole(self._descriptor, offset, length):
            return
        zeros = memoryview(bytes(min(length, 1 << 20)))
        for start in range(0, length, len(zeros)):
            self._write(offset + start, zeros[: length - start])

    def _resize(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def flush(self) -> None:
        super().flush()
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.fallocate.restype = ctypes.c_int


def _punch_hole(descriptor: int, offset: int, length: int) -> bool:
    """Free a range of a file; False where the file system cannot."""
    flags = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    return length == 0 or _libc.fallocate(descriptor, flags, offset, length) == 0
