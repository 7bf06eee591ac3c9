# SPDX-License-Identifier: Apache-2.0
"""Many writes in one system call: the real io_uring, on sockets that keep message borders."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusefs.fuse import ring
from fusefs.fuse.ring import ENTRIES, WriteRing, address_of, open_ring
from tests.support import processes

ROOT = Path(__file__).resolve().parents[3]


def opened(fd: int) -> WriteRing:
    found = open_ring(fd)
    if found is None:
        pytest.skip("this kernel, or who confines us, has no io_uring")
    return found


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        theirs.setblocking(False)
        yield ours, theirs


def received(sock: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(1 << 21))
    return found


def test_what_is_queued_is_written_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    with contextlib.closing(opened(ours.fileno())) as writes:
        for round_ in range(300):  # the ring goes round several times, at every phase
            messages = [
                bytearray(b"%d/%d" % (round_, each) + bytes(each)) for each in range(round_ % 65)
            ]
            for message in messages:
                writes.add(address_of(message), len(message))
            assert writes.queued == len(messages)
            assert received(theirs) == []
            assert writes.submit() == []
            assert writes.queued == 0
            assert received(theirs) == messages


def test_it_writes_large_and_page_aligned_memory(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    with contextlib.closing(opened(ours.fileno())) as writes:
        messages = [bytearray(os.urandom(size)) for size in (1, 4096, 65552, 1 << 20)]
        for message in messages:
            writes.add(address_of(message), len(message))
        assert writes.submit() == []
        assert received(theirs) == messages


def test_failures_are_told_and_the_others_are_written(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """At each submit, as often as the table of completions goes round."""
    ours, theirs = pair
    message = bytearray(b"x" * 10)
    with contextlib.closing(opened(ours.fileno())) as writes:
        for _ in range(5):
            for each in range(ENTRIES):
                # No memory is at page 1.
                writes.add(4096 if each % 2 else address_of(message), len(message))
            assert writes.submit() == [errno.EFAULT] * (ENTRIES // 2)
            assert received(theirs) == [message] * (ENTRIES // 2)
        theirs.close()
        for _ in range(3):
            writes.add(address_of(message), len(message))
        assert writes.submit() == [errno.EPIPE] * 3


def test_a_call_that_does_not_take_all_is_followed_by_another(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    calls = []
    real = ring._enter

    def few(number: int, fd: int, count: int, *rest: Any) -> int:
        calls.append(count)
        done: int = real(number, fd, min(count, 3), *rest)
        return done

    monkeypatch.setattr(ring, "_enter", few)
    messages = [bytearray(b"%d" % each) for each in range(8)]
    with contextlib.closing(opened(ours.fileno())) as writes:
        for message in messages:
            writes.add(address_of(message), len(message))
        assert writes.submit() == []
    assert calls == [8, 5, 2]
    assert received(theirs) == messages


def test_a_ring_of_no_use_says_so(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    message = bytearray(b"x")
    with contextlib.closing(opened(ours.fileno())) as writes:
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, writes._ring)  # what the number means now is no ring
        os.close(null)
        writes.add(address_of(message), 1)
        with pytest.raises(OSError, match="io_uring_enter"):
            writes.submit()
    assert received(theirs) == []


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_closed_ring_leaves_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    before = descriptors()
    writes = opened(pair[0].fileno())
    assert not os.get_inheritable(writes._ring)
    writes.close()
    writes.close()
    assert descriptors() == before
    with pytest.raises((TypeError, ValueError)):
        writes.add(0, 0)


def test_a_descriptor_that_may_block_has_no_ring(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """What does not fit now would be written later, from memory that is used again by then."""
    ours, _ = pair
    ours.setblocking(True)
    before = descriptors()
    assert open_ring(ours.fileno()) is None
    assert descriptors() == before


@pytest.mark.parametrize("how", ["no such call", "an older kernel", "no memory"])
def test_without_io_uring_there_is_none(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    before = descriptors()
    if how == "no such call":
        monkeypatch.setattr(ring, "_SYS_SETUP", 9999)
    elif how == "an older kernel":
        opened(pair[0].fileno()).close()
        monkeypatch.setattr(ring, "_FEAT_CQE_SKIP", 1 << 31)
    else:
        opened(pair[0].fileno()).close()
        monkeypatch.setattr(ring, "_OFFSET_SQES", 0x70000000)  # nothing to be mapped is there
    assert open_ring(pair[0].fileno()) is None
    assert descriptors() == before


CONFINED = """
import ctypes, errno, struct
from fusefs.fuse.ring import open_ring
from tests.fusefs.fuse.fake_kernel import Kernel

# Load the number of the call; io_uring_setup fails with EPERM, everything else is allowed.
code = struct.pack("HBBI" * 4,
    0x20, 0, 0, 0, 0x15, 0, 1, 425, 0x06, 0, 0, 0x00050000 | errno.EPERM, 0x06, 0, 0, 0x7FFF0000)
program = ctypes.create_string_buffer(code)
filter_ = struct.pack("HxxxxxxQ", 4, ctypes.addressof(program))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.c_char_p(filter_), 0, 0) == 0, ctypes.get_errno()

kernel = Kernel()
assert open_ring(kernel.ours.fileno()) is None
assert ctypes.get_errno() == errno.EPERM, ctypes.get_errno()
kernel.channel.start()
uniques = [kernel.read(0, 512) for _ in range(20)] + [kernel.write(0, b"x") for _ in range(20)]
kernel.reactor.turn()
assert [answer[0] for answer in kernel.answers()] == uniques
assert kernel.slots.outstanding() == []
print("answered")
"""


def test_where_a_filter_refuses_io_uring_answers_leave_one_by_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONFINED],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=processes.environment(),
        timeout=60,
        check=False,
    )
    assert done.stdout == "answered\n", done.stderr
