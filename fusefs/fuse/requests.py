# SPDX-License-Identifier: Apache-2.0
"""The FUSE requests that are not the data path: names, attributes, opening, the agreement at INIT.

Each is answered at once from :class:`~fusefs.fuse.blockfile.BlockFile`, except FSYNC and FALLOCATE,
which are handed on to whoever owns the device. What is not in the table is answered ENOSYS: for
extended attributes, ioctl, locks and so on the kernel then takes its own default and stops asking.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from . import abi
from .abi import Opcode
from .blockfile import FILE_ID, BlockFile

VALID_S = 3600
"""How long the kernel may keep names and attributes: we tell it when the size changes."""

MAX_BACKGROUND = 128
"""Requests the kernel keeps in flight for asynchronous I/O; its default of 12 starves a network."""
CONGESTION_THRESHOLD = 96

WANTED = (
    abi.InitFlag.ASYNC_READ
    | abi.InitFlag.BIG_WRITES
    | abi.InitFlag.ASYNC_DIO
    | abi.InitFlag.PARALLEL_DIROPS
    | abi.InitFlag.MAX_PAGES
    | abi.InitFlag.EXPLICIT_INVAL_DATA
    | abi.InitFlag.INIT_EXT
    | abi.InitFlag.HAS_RESEND
)

OPENED = abi.OpenFlag.DIRECT_IO | abi.OpenFlag.PARALLEL_DIRECT_WRITES | abi.OpenFlag.NOFLUSH
"""No page cache in the file: the filesystem on the loop device above has its own, and what is not
cached cannot be stale or dirty when the device grows or the connection ends. And no FLUSH: it comes
with each close(2), also with those that fork and exec make of inherited descriptors, and would let
them wait for a server that is away."""

Handler = Callable[[int, int, memoryview], None]


class PlainRequests:
    """Answers everything but READ and WRITE."""

    def __init__(
        self,
        file: BlockFile,
        send: Callable[[bytes], None],
        flush: Callable[[int], None],
        fallocate: Callable[[int, int, int, int], None],
        agreed: Callable[[abi.InitReply], None],
    ) -> None:
        self._agreed = agreed
        self._file = file
        self._send = send
        self._flush = flush
        self._fallocate = fallocate
        self._handlers: dict[int, Handler] = {
            Opcode.INIT: self._init,
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.SETATTR: self._setattr,
            Opcode.OPEN: self._open,
            Opcode.FSYNC: self._fsync,
            Opcode.FALLOCATE: self._on_fallocate,
            Opcode.STATFS: self._statfs,
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.ACCESS: self._access,
        }
        for opcode in (
            Opcode.RELEASE,
            Opcode.RELEASEDIR,
            Opcode.FSYNCDIR,
            Opcode.DESTROY,
        ):
            self._handlers[opcode] = self._granted
        for opcode in (
            Opcode.SYMLINK,
            Opcode.MKNOD,
            Opcode.MKDIR,
            Opcode.UNLINK,
            Opcode.RMDIR,
            Opcode.RENAME,
            Opcode.RENAME2,
            Opcode.LINK,
            Opcode.CREATE,
            Opcode.TMPFILE,
        ):
            self._handlers[opcode] = self._not_permitted
        for opcode in (Opcode.FLUSH, Opcode.INTERRUPT):
            self._handlers[opcode] = self._never_again
        for opcode in (Opcode.FORGET, Opcode.BATCH_FORGET):
            self._handlers[opcode] = self._forget

    def handle(self, opcode: int, unique: int, node: int, message: memoryview) -> None:
        """Answer one request; ``message`` is all of it and not valid afterwards."""
        handler = self._handlers.get(opcode)
        if handler is None:
            self._refuse(unique, errno.ENOSYS)
        else:
            handler(unique, node, message)

    def _refuse(self, unique: int, number: int) -> None:
        self._send(abi.error_reply(unique, number))

    def _grant(self, unique: int, payload: bytes = b"") -> None:
        self._send(abi.reply(unique, payload))

    # -- nothing to do --------------------------------------------------------------------------

    def _granted(self, unique: int, _node: int, _message: memoryview) -> None:
        self._grant(unique)

    def _not_permitted(self, unique: int, _node: int, _message: memoryview) -> None:
        self._refuse(unique, errno.EPERM)

    def _never_again(self, unique: int, _node: int, _message: memoryview) -> None:
        # After ENOSYS the kernel does not ask again. FLUSH: see OPENED; this is for kernels that do
        # not know NOFLUSH. INTERRUPT: like a disk's, I/O that has begun is not given up on a
        # signal, and the kernel waits for its end anyway.
        self._refuse(unique, errno.ENOSYS)

    def _forget(self, _unique: int, _node: int, _message: memoryview) -> None:
        """Nodes are two numbers that never change; and this one gets no answer."""

    # -- the agreement --------------------------------------------------------------------------

    def _init(self, unique: int, _node: int, message: memoryview) -> None:
        kernel = abi.decode_init(message)
        if kernel.major < abi.MAJOR or (
            kernel.major == abi.MAJOR and kernel.minor < abi.OLDEST_MINOR
        ):
            self._refuse(unique, errno.EPROTO)
            return
        answer = abi.InitReply(
            minor=min(kernel.minor, abi.MINOR),
            flags=kernel.flags & WANTED,
            max_readahead=kernel.max_readahead,
            max_background=MAX_BACKGROUND,
            congestion_threshold=CONGESTION_THRESHOLD,
        )
        if kernel.major == abi.MAJOR:
            self._agreed(answer)
        # To a newer major version our own is said, and the kernel asks again in it.
        self._grant(unique, answer.encode())

    # -- names and attributes -------------------------------------------------------------------

    def _lookup(self, unique: int, node: int, message: memoryview) -> None:
        found = self._file.lookup(node, abi.decode_name(message))
        if found:
            self._grant(unique, abi.entry_out(self._file.attributes(found), VALID_S))
        else:
            self._refuse(unique, errno.ENOENT)

    def _getattr(self, unique: int, node: int, _message: memoryview) -> None:
        self._grant(unique, abi.attr_out(self._file.attributes(node), VALID_S))

    def _setattr(self, unique: int, node: int, message: memoryview) -> None:
        valid, _, _, size = abi.SETATTR_IN.unpack_from(message, abi.IN_HEADER_LENGTH)
        refusal = self._file.refuse_attributes(valid)
        if not refusal and valid & abi.FATTR_SIZE:
            refusal = errno.EISDIR if node != FILE_ID else self._file.refuse_size(size)
        if refusal:
            self._refuse(unique, refusal)
        else:
            self._getattr(unique, node, message)

    def _access(self, unique: int, _node: int, message: memoryview) -> None:
        mask, _ = abi.ACCESS_IN.unpack_from(message, abi.IN_HEADER_LENGTH)
        refusal = self._file.refuse_access(mask)
        if refusal:
            self._refuse(unique, refusal)
        else:
            self._grant(unique)

    def _statfs(self, unique: int, _node: int, _message: memoryview) -> None:
        block_size = self._file.device.block_size
        blocks = self._file.size // block_size
        self._grant(unique, abi.statfs_out(blocks, block_size, files=1, name_length=255))

    def _opendir(self, unique: int, _node: int, _message: memoryview) -> None:
        self._grant(unique, abi.open_out(0, 0))

    def _readdir(self, unique: int, _node: int, message: memoryview) -> None:
        _, offset, size, *_ = abi.READ_IN.unpack_from(message, abi.IN_HEADER_LENGTH)
        self._grant(unique, abi.directory(self._file.entries(), offset, size))

    # -- the file -------------------------------------------------------------------------------

    def _open(self, unique: int, node: int, message: memoryview) -> None:
        flags, _ = abi.OPEN_IN.unpack_from(message, abi.IN_HEADER_LENGTH)
        refusal = self._file.refuse_open(node, flags)
        if refusal:
            self._refuse(unique, refusal)
        else:
            self._grant(unique, abi.open_out(0, OPENED))

    def _fsync(self, unique: int, _node: int, _message: memoryview) -> None:
        self._flush(unique)

    def _on_fallocate(self, unique: int, _node: int, message: memoryview) -> None:
        _, offset, length, mode, _ = abi.FALLOCATE_IN.unpack_from(message, abi.IN_HEADER_LENGTH)
        self._fallocate(unique, mode, offset, length)
