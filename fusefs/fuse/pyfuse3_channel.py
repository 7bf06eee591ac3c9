# SPDX-License-Identifier: Apache-2.0
"""The pyfuse3 channel: the same block file through libfuse, for hosts where we may not mount.

pyfuse3 is an optional extra, imported here only. It runs under trio, makes a task per request and
has one file system per process. It has no handler for fallocate, so a loop device on this channel
has no discard and writes its zeros out; and it leaves the kernel at 12 background requests, which
``/sys/fs/fuse/connections/N/max_background`` raises. Where the native channel runs, it is better.

``target`` is a mount point, which libfuse mounts by itself (through fusermount3 where we are not
root), or the descriptor of a /dev/fuse that is mounted already.
"""

# ruff: noqa: ARG002  (pyfuse3 calls its handlers with positional arguments that we often ignore)

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio
import pyfuse3
from anyio.abc import TaskStatus

from pyscsi_init.device.interface import BlockDevice
from pyscsi_init.errors import IscsiError

from .blockfile import FILE_ID
from .channel import Channel, ChannelStatistics
from .errno import errno_of
from .requests import VALID_S

if TYPE_CHECKING:
    from .blockfile import BlockFile

    _Operations = Any
else:
    _Operations = pyfuse3.Operations

_SYNC_HANDLE = 1 << 32


class Pyfuse3Channel(Channel):
    """Serves ``device`` through pyfuse3; ``serve`` must run under trio."""

    def __init__(
        self,
        target: int | str,
        device: BlockDevice,
        *,
        read_only: bool = False,
        name: str = "lun",
        fua: bool = False,
        source: str = "pyscsi-init",
        allow_other: bool = True,
    ) -> None:
        super().__init__(device, read_only=read_only, name=name, fua=fua)
        self._target = target
        self._options = set(pyfuse3.default_options) | {f"fsname={source}", "subtype=pyscsi-init"}
        self._options.discard("default_permissions")
        if allow_other:
            self._options.add("allow_other")
        self._serving = False
        self._stopping = False

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        operations = _BlockFileOperations(self.file, self.statistics)
        device = self.file.device
        # libfuse closes the descriptor that it is given, and ours stays its owner's.
        fd = os.dup(self._target) if isinstance(self._target, int) else -1
        pyfuse3.init(
            operations,
            self._target if isinstance(self._target, str) else f"/dev/fd/{fd}",
            self._options,
        )
        device.size_changed.append(self._size_changed)
        self._serving = True
        try:
            task_status.started()
            await pyfuse3.main()
        finally:
            self._serving = False
            device.size_changed.remove(self._size_changed)
            # After a stop the mount stays for a successor, where there can be one.
            pyfuse3.close(unmount=isinstance(self._target, str) and not self._stopping)
            if not self._stopping:
                self._end()

    def stop(self) -> None:
        if self._serving and not self._stopping:
            self._stopping = True
            pyfuse3.terminate()

    def _size_changed(self, _: int) -> None:
        try:
            pyfuse3.invalidate_inode(FILE_ID, attr_only=True)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise


class _BlockFileOperations(_Operations):  # type: ignore[misc]
    """pyfuse3's handlers over the block file. They raise FUSEError and nothing else."""

    def __init__(self, file: BlockFile, statistics: ChannelStatistics) -> None:
        super().__init__()
        self._file = file
        self._statistics = statistics

    def _attributes(self, node: int) -> Any:
        ours = self._file.attributes(node)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = ours.node
        entry.generation = 0
        entry.entry_timeout = VALID_S
        entry.attr_timeout = VALID_S
        entry.st_mode = ours.mode
        entry.st_nlink = 1
        entry.st_uid = ours.uid
        entry.st_gid = ours.gid
        entry.st_size = ours.size
        entry.st_blksize = ours.block_size
        entry.st_blocks = -(-ours.size // 512)
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = ours.time_s * 10**9
        return entry

    def _refuse_if(self, number: int) -> None:
        if number:
            raise pyfuse3.FUSEError(number)

    def _failure(self, error: Exception) -> Exception:
        self._statistics.failed(str(error))
        return pyfuse3.FUSEError(errno_of(error))

    # -- names and attributes -------------------------------------------------------------------

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        node = self._file.lookup(parent_inode, name)
        self._refuse_if(0 if node else errno.ENOENT)
        return self._attributes(node)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Nodes are two numbers that never change."""

    async def getattr(self, inode: int, ctx: Any) -> Any:
        return self._attributes(inode)

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> Any:
        if fields.update_mode or fields.update_uid or fields.update_gid:
            self._refuse_if(errno.EPERM)
        if fields.update_size:
            is_file = inode == FILE_ID
            self._refuse_if(self._file.refuse_size(attr.st_size) if is_file else errno.EISDIR)
        return self._attributes(inode)

    async def access(self, inode: int, mode: int, ctx: Any) -> bool:
        self._refuse_if(self._file.refuse_access(mode))
        return True

    async def statfs(self, ctx: Any) -> Any:
        block_size = self._file.device.block_size
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = block_size
        found.f_blocks = self._file.size // block_size
        found.f_bfree = found.f_bavail = 0
        found.f_files, found.f_ffree, found.f_favail = 1, 0, 0
        found.f_namemax = 255
        return found

    async def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        for position, (name, node, _) in enumerate(self._file.entries(), 1):
            if position > start_id and not pyfuse3.readdir_reply(
                token, name, self._attributes(node), position
            ):
                return

    # -- the file -------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, ctx: Any) -> Any:
        self._refuse_if(self._file.refuse_open(inode, flags))
        # pyfuse3 does not show a write's flags, and with direct I/O O_DSYNC is left to us:
        # so the handle remembers how the file was opened.
        handle = inode | (_SYNC_HANDLE if flags & os.O_DSYNC else 0)
        return pyfuse3.FileInfo(fh=handle, direct_io=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        size = self._file.readable(off, size)
        if not size:
            return b""
        with _Counted(self._statistics):
            try:
                data = await self._file.device.read(off, size)
            except IscsiError as error:
                raise self._failure(error) from error
        self._statistics.reads += 1
        self._statistics.bytes_read += size
        return data

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        refusal = self._file.refuse_write(off, len(buf))
        if refusal:
            self._statistics.failed(os.strerror(refusal))
        self._refuse_if(refusal)
        size = self._file.readable(off, len(buf))
        data = buf if size == len(buf) else memoryview(buf)[:size]
        fua = self._file.fua or bool(fh & _SYNC_HANDLE)
        with _Counted(self._statistics):
            try:
                await self._file.device.write(off, data, fua=fua)
            except IscsiError as error:
                raise self._failure(error) from error
        self._statistics.writes += 1
        self._statistics.bytes_written += size
        return size

    async def fsync(self, fh: int, datasync: bool) -> None:
        self._statistics.flushes += 1
        written_before = self._statistics.writes
        with _Counted(self._statistics):
            try:
                await self._file.device.flush()
            except IscsiError as error:
                raise self._failure(error) from error
        self._statistics.flushed_writes = max(self._statistics.flushed_writes, written_before)

    async def flush(self, fh: int) -> None:
        """Comes with each close(2). After ENOSYS the kernel asks no more, so that a close never
        waits for a server that is away; there are no late errors to report."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def release(self, fh: int) -> None:
        """Nothing is kept per open file."""

    async def releasedir(self, fh: int) -> None:
        """Nothing is kept per open directory."""

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """The directory never changes."""


class _Counted:
    """A request in flight, for the statistics."""

    __slots__ = ("_statistics",)

    def __init__(self, statistics: ChannelStatistics) -> None:
        self._statistics = statistics

    def __enter__(self) -> None:
        statistics = self._statistics
        statistics.in_flight += 1
        statistics.max_in_flight = max(statistics.max_in_flight, statistics.in_flight)

    def __exit__(self, *exc_info: object) -> None:
        self._statistics.in_flight -= 1
