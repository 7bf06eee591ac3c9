# SPDX-License-Identifier: Apache-2.0
"""What is not the data path: every request is answered once, and as Linux needs it."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable

import pytest

from fusefs.fuse import abi
from fusefs.fuse.abi import Opcode
from fusefs.fuse.blockfile import FILE_ID, BlockFile
from fusefs.fuse.requests import OPENED, WANTED, PlainRequests
from pyscsi_init.device.ram import RamDevice

SIZE = 1 << 20
EVERYTHING = (1 << 64) - 1


class Kernel:
    """Hands requests over and takes the answers."""

    def __init__(self, *, read_only: bool = False) -> None:
        self.answers: list[bytes] = []
        self.flushed: list[int] = []
        self.fallocated: list[tuple[int, int, int, int]] = []
        self.agreed: list[abi.InitReply] = []
        ram = RamDevice(SIZE, read_only=read_only)
        self.plain = PlainRequests(
            BlockFile(ram),
            self.answers.append,
            self.flushed.append,
            lambda *what: self.fallocated.append(what),
            self.agreed.append,
        )

    def ask(self, opcode: int, payload: bytes = b"", node: int = FILE_ID) -> None:
        message = abi.IN_HEADER.pack(40 + len(payload), opcode, 6, node, 0, 0, 0, 0, 0) + payload
        self.plain.handle(opcode, 6, node, memoryview(message))

    def get(self, opcode: int, payload: bytes = b"", node: int = FILE_ID) -> tuple[int, bytes]:
        """The errno and the body of the only answer."""
        self.ask(opcode, payload, node)
        (answer,) = self.answers
        self.answers.clear()
        length, error, unique = struct.unpack_from("=IiQ", answer)
        assert length == len(answer)
        assert unique == 6
        return -error, answer[16:]


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def init_in(major: int = 7, minor: int = 38, flags: int = EVERYTHING) -> bytes:
    return struct.pack("=IIIII", major, minor, 1 << 17, flags & 0xFFFFFFFF, flags >> 32) + bytes(44)


def test_init_takes_what_both_can(kernel: Kernel) -> None:
    error, body = kernel.get(Opcode.INIT, init_in(), node=0)
    assert error == 0
    assert struct.unpack_from("=II", body) == (7, 38)
    (agreed,) = kernel.agreed
    assert agreed.flags == WANTED
    assert agreed.max_background == 128
    assert agreed.encode() == body
    few = abi.InitFlag.ASYNC_DIO | abi.InitFlag.MAX_PAGES
    kernel.get(Opcode.INIT, init_in(minor=31, flags=few), node=0)
    assert kernel.agreed[1].flags == few
    assert kernel.agreed[1].minor == 31


def test_init_of_a_kernel_that_is_too_old(kernel: Kernel) -> None:
    assert kernel.get(Opcode.INIT, init_in(minor=30))[0] == errno.EPROTO
    assert kernel.agreed == []


def test_init_of_a_newer_major_version_is_asked_again(kernel: Kernel) -> None:
    error, body = kernel.get(Opcode.INIT, init_in(major=8, minor=0))
    assert error == 0
    assert struct.unpack_from("=I", body) == (7,)
    assert kernel.agreed == []


def test_lookup(kernel: Kernel) -> None:
    error, body = kernel.get(Opcode.LOOKUP, b"lun\0", node=1)
    assert error == 0
    assert struct.unpack_from("=Q", body) == (FILE_ID,)
    assert struct.unpack_from("=QQ", body, 40) == (FILE_ID, SIZE)
    for name, node in ((b"other\0", 1), (b"lun\0", FILE_ID), (b"\0", 1)):
        assert kernel.get(Opcode.LOOKUP, name, node=node)[0] == errno.ENOENT


def test_getattr(kernel: Kernel) -> None:
    for node, kind in ((1, stat.S_IFDIR), (FILE_ID, stat.S_IFREG)):
        error, body = kernel.get(Opcode.GETATTR, bytes(16), node=node)
        assert error == 0
        assert stat.S_IFMT(struct.unpack_from("=I", body, 16 + 60)[0]) == kind


def test_setattr(kernel: Kernel) -> None:
    def setattr_in(valid: int, size: int = 0) -> bytes:
        return struct.pack("=IIQQ", valid, 0, 0, size) + bytes(64)

    assert kernel.get(Opcode.SETATTR, setattr_in(abi.FATTR_SIZE, SIZE))[0] == 0
    assert kernel.get(Opcode.SETATTR, setattr_in(abi.FATTR_SIZE, 0))[0] == errno.EPERM
    assert kernel.get(Opcode.SETATTR, setattr_in(abi.FATTR_SIZE, SIZE), node=1)[0] == errno.EISDIR
    assert kernel.get(Opcode.SETATTR, setattr_in(1 << 5))[0] == 0
    for valid in (1, 2, 4):
        assert kernel.get(Opcode.SETATTR, setattr_in(valid))[0] == errno.EPERM


def test_open(kernel: Kernel) -> None:
    error, body = kernel.get(Opcode.OPEN, struct.pack("=II", os.O_RDWR, 0))
    assert error == 0
    assert struct.unpack("=QII", body) == (0, OPENED, 0)
    assert Kernel(read_only=True).get(Opcode.OPEN, struct.pack("=II", os.O_RDWR, 0))[0] == (
        errno.EROFS
    )


def test_fsync_and_fallocate_are_handed_on(kernel: Kernel) -> None:
    kernel.ask(Opcode.FSYNC, bytes(16))
    kernel.ask(Opcode.FALLOCATE, struct.pack("=QQQII", 0, 4096, 8192, 3, 0))
    assert kernel.flushed == [6]
    assert kernel.fallocated == [(6, 3, 4096, 8192)]
    assert kernel.answers == []


@pytest.mark.parametrize("opcode", [Opcode.FORGET, Opcode.BATCH_FORGET])
def test_forget_gets_no_answer(kernel: Kernel, opcode: Opcode) -> None:
    kernel.ask(opcode, bytes(16))
    assert kernel.answers == []


@pytest.mark.parametrize(
    "opcode",
    [
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
    ],
)
def test_the_directory_cannot_be_changed(kernel: Kernel, opcode: Opcode) -> None:
    assert kernel.get(opcode, bytes(64), node=1)[0] == errno.EPERM


@pytest.mark.parametrize(
    "opcode",
    [
        Opcode.GETXATTR,
        Opcode.SETXATTR,
        Opcode.LISTXATTR,
        Opcode.IOCTL,
        Opcode.POLL,
        Opcode.LSEEK,
        Opcode.INTERRUPT,
        Opcode.FLUSH,
        52,
        4096,
    ],
)
def test_what_we_do_not_have_is_enosys(kernel: Kernel, opcode: int) -> None:
    assert kernel.get(opcode, bytes(64))[0] == errno.ENOSYS


def test_fsync_is_never_enosys(kernel: Kernel) -> None:
    """It is handed on: an error of the device is the only other answer that it can get."""
    kernel.ask(Opcode.FSYNC, bytes(16))
    assert (kernel.flushed, kernel.answers) == ([6], [])


@pytest.mark.parametrize(
    "opcode",
    [Opcode.RELEASE, Opcode.RELEASEDIR, Opcode.FSYNCDIR, Opcode.DESTROY],
)
def test_what_needs_nothing_is_granted(kernel: Kernel, opcode: Opcode) -> None:
    assert kernel.get(opcode, bytes(64)) == (0, b"")


def test_directory_and_statfs(kernel: Kernel) -> None:
    assert kernel.get(Opcode.OPENDIR, bytes(8), node=1)[0] == 0

    def read_in(offset: int) -> bytes:
        return abi.READ_IN.pack(0, offset, 4096, 0, 0, 0, 0)

    _, body = kernel.get(Opcode.READDIR, read_in(0), node=1)
    assert b"lun" in body
    assert kernel.get(Opcode.READDIR, read_in(3), node=1) == (0, b"")
    _, body = kernel.get(Opcode.STATFS, node=1)
    assert struct.unpack_from("=QQ", body) == (SIZE // 512, 0)


def test_access(kernel: Kernel) -> None:
    write: Callable[[Kernel], int] = lambda who: who.get(Opcode.ACCESS, struct.pack("=II", 2, 0))[0]  # noqa: E731
    assert write(kernel) == 0
    assert write(Kernel(read_only=True)) == errno.EROFS
