# SPDX-License-Identifier: Apache-2.0
"""The FUSE kernel ABI, as far as one block file needs it: opcodes, flags and packed structures.

The facts are those of the kernel's uapi header linux/fuse.h, version 7.31 and later; names are its
names in snake_case. Structures are in the byte order of the machine and have no implicit padding.
Each packer returns the bytes that follow the out header; each unpacker reads at a fixed offset
behind the in header. What an operation means is not known here.
"""

from __future__ import annotations

import enum
import errno
import struct
from dataclasses import dataclass

MAJOR = 7
MINOR = 38
"""The version whose structures are written here; the kernel's may be older or newer."""
OLDEST_MINOR = 31
"""Linux 5.4. Older kernels lack MAX_PAGES or explicit invalidation, or both."""

ROOT_ID = 1
PAGE = 4096
MIN_READ_BUFFER = 8192

MAX_PAGES = 256
MAX_WRITE = MAX_PAGES * PAGE
"""The most that one request carries: what the kernel allows unless an administrator raised it."""

UNIQUE_RESEND = 1 << 63
"""Set in ``unique`` of a request that the kernel sends again; echoed like the rest of it."""


class Opcode(enum.IntEnum):
    """What the kernel asks. Those that a block file never gets are left out."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    BATCH_FORGET = 42
    FALLOCATE = 43
    RENAME2 = 45
    LSEEK = 46
    TMPFILE = 51


class InitFlag(enum.IntFlag):
    """What is agreed on in INIT."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    EXPLICIT_INVAL_DATA = 1 << 25
    INIT_EXT = 1 << 30
    HAS_RESEND = 1 << 39


class OpenFlag(enum.IntFlag):
    """What the answer to OPEN asks of the kernel."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NOFLUSH = 1 << 5
    PARALLEL_DIRECT_WRITES = 1 << 6


class Notify(enum.IntEnum):
    """Messages that the server sends without being asked; the code stands where the error does."""

    INVAL_INODE = 2
    RESEND = 7


FATTR_SIZE = 1 << 3

IN_HEADER = struct.Struct("=IIQQIIIHH")
"""len opcode unique nodeid uid gid pid total_extlen padding"""
OUT_HEADER = struct.Struct("=IiQ")
"""len error unique"""

IN_HEADER_LENGTH = IN_HEADER.size
OUT_HEADER_LENGTH = OUT_HEADER.size

READ_IN = struct.Struct("=QQIIQII")
"""fh offset size read_flags lock_owner flags padding"""
WRITE_IN = struct.Struct("=QQIIQII")
"""fh offset size write_flags lock_owner flags padding; the data follows"""
WRITE_DATA_OFFSET = IN_HEADER_LENGTH + WRITE_IN.size
FALLOCATE_IN = struct.Struct("=QQQII")
"""fh offset length mode padding"""
SETATTR_IN = struct.Struct("=IIQQ")
"""valid padding fh size, of a longer structure"""
OPEN_IN = struct.Struct("=II")
"""flags open_flags"""
ACCESS_IN = struct.Struct("=II")
"""mask padding"""

_INIT_IN = struct.Struct("=IIII")
_INIT_IN_FLAGS2 = struct.Struct("=I")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
_ENTRY_OUT = struct.Struct("=QQQQII")
_ATTR_OUT = struct.Struct("=QII")
_OPEN_OUT = struct.Struct("=QII")
_WRITE_REPLY = struct.Struct("=IiQII")
_STATFS_OUT = struct.Struct("=QQQQQIIII24x")
_DIRENT = struct.Struct("=QQII")
_INVAL_INODE = struct.Struct("=IiQQqq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """struct fuse_attr, without what a block file never has."""

    node: int
    size: int
    mode: int
    uid: int
    gid: int
    time_s: int
    block_size: int = PAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    """What the kernel can do."""

    major: int
    minor: int
    max_readahead: int
    flags: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InitReply:
    """What was agreed. A successor on the same descriptor needs it: INIT comes only once."""

    minor: int
    flags: int
    max_readahead: int
    max_background: int
    congestion_threshold: int
    max_write: int = MAX_WRITE
    max_pages: int = MAX_PAGES

    def encode(self) -> bytes:
        """struct fuse_init_out."""
        return _INIT_OUT.pack(
            MAJOR,
            self.minor,
            self.max_readahead,
            self.flags & 0xFFFFFFFF,
            self.max_background,
            self.congestion_threshold,
            self.max_write,
            1,
            self.max_pages,
            0,
            self.flags >> 32,
        )

    @classmethod
    def decode(cls, encoded: bytes | memoryview) -> InitReply:
        """The reply from the struct fuse_init_out that it was encoded to."""
        _, minor, readahead, flags, background, congestion, write, _, pages, _, flags2 = (
            _INIT_OUT.unpack_from(encoded)
        )
        return cls(
            minor=minor,
            flags=flags | flags2 << 32,
            max_readahead=readahead,
            max_background=background,
            congestion_threshold=congestion,
            max_write=write,
            max_pages=pages,
        )


INIT_REPLY_LENGTH = _INIT_OUT.size


def decode_init(message: memoryview) -> InitRequest:
    """struct fuse_init_in behind the header."""
    major, minor, max_readahead, flags = _INIT_IN.unpack_from(message, IN_HEADER_LENGTH)
    offset = IN_HEADER_LENGTH + _INIT_IN.size
    if flags & InitFlag.INIT_EXT and len(message) >= offset + _INIT_IN_FLAGS2.size:
        flags |= _INIT_IN_FLAGS2.unpack_from(message, offset)[0] << 32
    return InitRequest(major=major, minor=minor, max_readahead=max_readahead, flags=flags)


def decode_name(message: memoryview) -> bytes:
    """The name behind the header of LOOKUP, without its terminating zero byte."""
    return bytes(message[IN_HEADER_LENGTH:]).split(b"\0", 1)[0]


def reply(unique: int, payload: bytes = b"") -> bytes:
    """A whole answer that says success."""
    return OUT_HEADER.pack(OUT_HEADER_LENGTH + len(payload), 0, unique) + payload


def error_reply(unique: int, number: int) -> bytes:
    """A whole answer that says failure with a positive errno."""
    return OUT_HEADER.pack(OUT_HEADER_LENGTH, -(number or errno.EIO), unique)


def write_reply(unique: int, size: int) -> bytes:
    """A whole answer to WRITE: so many bytes were written."""
    return _WRITE_REPLY.pack(_WRITE_REPLY.size, 0, unique, size, 0)


def encode_attributes(attributes: Attributes) -> bytes:
    """struct fuse_attr."""
    time_s = attributes.time_s
    return _ATTR.pack(
        attributes.node,
        attributes.size,
        -(-attributes.size // 512),
        time_s,
        time_s,
        time_s,
        0,
        0,
        0,
        attributes.mode,
        1,
        attributes.uid,
        attributes.gid,
        0,
        attributes.block_size,
        0,
    )


def entry_out(attributes: Attributes, valid_s: int) -> bytes:
    """struct fuse_entry_out: the answer to LOOKUP."""
    return _ENTRY_OUT.pack(attributes.node, 0, valid_s, valid_s, 0, 0) + encode_attributes(
        attributes
    )


def attr_out(attributes: Attributes, valid_s: int) -> bytes:
    """struct fuse_attr_out: the answer to GETATTR and SETATTR."""
    return _ATTR_OUT.pack(valid_s, 0, 0) + encode_attributes(attributes)


def open_out(handle: int, flags: int) -> bytes:
    """struct fuse_open_out."""
    return _OPEN_OUT.pack(handle, flags, 0)


def statfs_out(blocks: int, block_size: int, files: int, name_length: int) -> bytes:
    """struct fuse_statfs_out of a filesystem that is full: nothing can be added to it."""
    return _STATFS_OUT.pack(blocks, 0, 0, files, 0, block_size, name_length, block_size, 0)


def directory(entries: list[tuple[bytes, int, int]], start: int, size: int) -> bytes:
    """The (name, node, type) entries from position ``start`` on that fit into ``size`` bytes."""
    packed = b""
    for position, (name, node, kind) in enumerate(entries[start:], start + 1):
        record = _DIRENT.pack(node, position, len(name), kind) + name
        record += bytes(-len(record) % 8)
        if len(packed) + len(record) > size:
            break
        packed += record
    return packed


def inval_inode(node: int, offset: int, length: int) -> bytes:
    """FUSE_NOTIFY_INVAL_INODE: forget the attributes, and with ``offset`` >= 0 cached pages too."""
    return _INVAL_INODE.pack(_INVAL_INODE.size, Notify.INVAL_INODE, 0, node, offset, length)


def resend() -> bytes:
    """FUSE_NOTIFY_RESEND: send again what was read and not answered (Linux 6.9)."""
    return OUT_HEADER.pack(OUT_HEADER_LENGTH, Notify.RESEND, 0)
