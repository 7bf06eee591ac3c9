# SPDX-License-Identifier: Apache-2.0
"""The native channel against a pair of sockets that keep message borders, as /dev/fuse does.

Here the test is the kernel (fake_kernel.py); test_mounts.py has the real one.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Iterator

import anyio
import pytest

from fusefs.errors import NotAllowed
from fusefs.fuse import NativeChannel, abi, make_channel, native
from fusefs.fuse.abi import Opcode
from pyscsi_init.device.fault import Match
from pyscsi_init.device.interface import BlockRequest, Operation
from pyscsi_init.errors import MediumError
from tests.fusefs.fuse.fake_kernel import SIZE, Kernel

BAD = MediumError("bad", sense_key=3, asc=0x11, ascq=0)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    kernel.channel.start()
    yield kernel
    kernel.close()


def test_one_wake_up_takes_a_batch(kernel: Kernel) -> None:
    uniques = [kernel.read(index * 4096, 4096) for index in range(native.DRAIN + 10)]
    kernel.reactor.turn()
    assert [answer[0] for answer in kernel.answers()] == uniques[: native.DRAIN]
    kernel.reactor.turn()
    assert [answer[0] for answer in kernel.answers()] == uniques[native.DRAIN :]


def test_answers_leave_in_the_order_of_completion(kernel: Kernel) -> None:
    kernel.fault.hold()
    uniques = [kernel.read(0, 512) for _ in range(5)]
    kernel.reactor.turn()
    assert kernel.answers() == []
    kernel.fault.release(order="lifo")
    assert [answer[0] for answer in kernel.answers()] == uniques[::-1]


@pytest.mark.parametrize("size", [1, 512, 65536, 65537, 1 << 20])
def test_what_is_written_is_read(kernel: Kernel, size: int) -> None:
    data = os.urandom(size)
    unique = kernel.write(777, data)
    kernel.reactor.turn()
    assert kernel.answers() == [(unique, 0, struct.pack("=II", size, 0))]
    unique = kernel.read(777, size)
    kernel.reactor.turn()
    assert kernel.answers() == [(unique, 0, data)]
    statistics = kernel.channel.statistics
    assert (statistics.reads, statistics.writes) == (1, 1)
    assert (statistics.bytes_read, statistics.bytes_written) == (size, size)
    assert statistics.in_flight == 0


def test_payloads_of_held_writes_stay_apart(kernel: Kernel) -> None:
    kernel.fault.hold()
    for index in range(4):
        kernel.write(index << 20, bytes((index + 1,)) * (1 << 20))
        kernel.write((index + 4) << 20, bytes((index + 5,)) * 4096)
        kernel.reactor.turn()
    assert len(kernel.slots.free_areas) == 8 - 1 - 4
    kernel.fault.release(order="lifo")
    assert len(kernel.slots.free_areas) == 8 - 1
    assert kernel.slots.kept == 0
    for index in range(8):
        assert kernel.ram._view[index << 20] == index + 1
        assert kernel.ram._view[(index << 20) + 4095] == index + 1


def test_reading_pauses_when_every_area_is_kept_and_goes_on() -> None:
    kernel = Kernel(areas=3)
    kernel.channel.start()
    kernel.fault.hold()
    uniques = [kernel.write(0, bytes(1 << 17)) for _ in range(5)]
    kernel.reactor.turn()
    assert kernel.slots.kept == 3
    assert kernel.reactor.reader is None
    kernel.fault.clear()
    kernel.fault.release(1)
    assert kernel.reactor.reader is not None
    kernel.fault.release()
    kernel.reactor.turn()
    assert sorted(answer[0] for answer in kernel.answers()) == uniques
    assert kernel.slots.kept == 0
    kernel.close()


def test_reading_pauses_when_every_slot_is_kept_and_goes_on() -> None:
    kernel = Kernel(slots=10)
    kernel.channel.start()
    kernel.fault.hold()
    for _ in range(15):
        kernel.read(0, 512)
    kernel.reactor.turn()
    assert kernel.channel.statistics.in_flight == 10
    assert kernel.reactor.reader is None
    kernel.fault.clear()
    kernel.fault.release(1, order="lifo")
    kernel.reactor.turn()
    assert kernel.channel.statistics.in_flight == 9
    kernel.reactor.in_one_turn(kernel.fault.release)
    kernel.reactor.turn()
    assert len(kernel.answers()) == 15
    assert kernel.channel.statistics.max_in_flight == 10
    kernel.close()


def test_reading_pauses_at_the_limit_of_bytes(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "MAX_LARGE_BYTES", 200_000)
    kernel.fault.hold()
    for _ in range(6):
        kernel.read(0, 80_000)
    kernel.reactor.turn()
    assert kernel.channel.statistics.in_flight == 3
    kernel.fault.clear()
    kernel.fault.release()
    kernel.reactor.turn()
    assert len(kernel.answers()) == 6


def test_one_at_a_time_is_read_without_asking_twice(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    real = os.readv

    def counted(fd: int, buffers: tuple[memoryview, memoryview]) -> int:
        nonlocal calls
        calls += 1
        return real(fd, buffers)

    monkeypatch.setattr(native, "_readv", counted)
    for _ in range(160):
        kernel.read(0, 512)
        kernel.reactor.turn()
        assert len(kernel.answers()) == 1
    assert calls < 160 * 1.15
    # And when more come after all, they are found at the latest by the sixteenth wake-up.
    for _ in range(60):
        kernel.read(0, 512)
    turns = 0
    while kernel.channel.statistics.reads < 220:
        kernel.reactor.turn()
        turns += 1
    assert turns <= 16


def test_fsync_is_a_flush_and_errors_are_told(kernel: Kernel) -> None:
    kernel.fault.fail(BAD, Match(operations=frozenset({Operation.FLUSH}), skip=1))
    first = kernel.ask(Opcode.FSYNC, bytes(16))
    second = kernel.ask(Opcode.FSYNC, bytes(16))
    kernel.reactor.turn()
    assert kernel.answers() == [(first, 0, b""), (second, errno.ENODATA, b"")]
    assert kernel.ram.flushes == 1
    assert kernel.channel.statistics.flushes == 2
    assert kernel.channel.statistics.errors == 1


@pytest.mark.parametrize("operation", [Operation.READ, Operation.WRITE])
@pytest.mark.parametrize("size", [512, 1 << 20])
def test_errors_become_errno(kernel: Kernel, operation: Operation, size: int) -> None:
    kernel.fault.fail(BAD)
    is_read = operation is Operation.READ
    unique = kernel.read(0, size) if is_read else kernel.write(0, bytes(size))
    kernel.reactor.turn()
    assert kernel.answers() == [(unique, errno.ENODATA, b"")]
    assert kernel.channel.statistics.errors == 1
    assert kernel.slots.kept == 0


def test_the_end_of_the_device(kernel: Kernel) -> None:
    kernel.read(SIZE - 100, 4096)
    kernel.read(SIZE, 4096)
    kernel.write(SIZE - 100, b"\1" * 4096)
    kernel.write(SIZE, b"\1")
    kernel.reactor.turn()
    found = [(error, body) for _, error, body in sorted(kernel.answers())]
    assert found == [
        (0, bytes(100)),
        (0, b""),
        (0, struct.pack("=II", 100, 0)),
        (errno.ENOSPC, b""),
    ]


@pytest.mark.parametrize(("flags", "fua"), [(0, False), (os.O_DSYNC, True), (os.O_SYNC, True)])
def test_a_write_to_a_file_opened_for_sync_is_fua(kernel: Kernel, flags: int, fua: bool) -> None:
    seen: list[bool] = []

    def look(request: BlockRequest) -> bool:
        seen.append(request.fua)
        return False

    kernel.fault.hold(Match(predicate=look))
    kernel.write(0, bytes(512), flags)
    kernel.reactor.turn()
    assert seen == [fua]


def test_fallocate(kernel: Kernel) -> None:
    kernel.write(0, b"\1" * 8192)
    kernel.ask(Opcode.FALLOCATE, struct.pack("=QQQII", 0, 100, 8000, 3, 0))
    kernel.ask(Opcode.FALLOCATE, struct.pack("=QQQII", 0, 100, 8000, 0, 0))
    kernel.read(0, 8192)
    kernel.reactor.turn()
    found = [(error, body) for _, error, body in sorted(kernel.answers())]
    assert found[1:3] == [(0, b""), (errno.EOPNOTSUPP, b"")]
    assert found[3][1] == b"\1" * 100 + bytes(8000) + b"\1" * 92
    assert kernel.channel.statistics.discards == 2


def test_growth_is_told_to_the_kernel(kernel: Kernel) -> None:
    kernel.ram.resize(2 * SIZE)
    (unique, code, body) = kernel.answers()[0]
    assert (unique, -code) == (0, abi.Notify.INVAL_INODE)
    assert struct.unpack("=Qqq", body) == (2, -1, 0)


def test_a_resent_request_is_answered_under_the_same_number(kernel: Kernel) -> None:
    kernel.unique = abi.UNIQUE_RESEND
    unique = kernel.read(0, 512)
    assert unique & abi.UNIQUE_RESEND
    kernel.reactor.turn()
    assert kernel.answers()[0][0] == unique


@pytest.mark.anyio
async def test_stop_answers_what_was_taken_and_leaves_the_rest() -> None:
    kernel = Kernel()
    kernel.fault.hold()
    async with anyio.create_task_group() as tasks:
        await tasks.start(kernel.channel.serve)
        taken = kernel.read(0, 512)
        kernel.reactor.turn()
        kernel.channel.stop()
        kernel.read(0, 512)
        assert kernel.reactor.reader is None
        await anyio.lowlevel.checkpoint()
        assert kernel.channel.statistics.in_flight == 1
        kernel.fault.release()
    assert [answer[0] for answer in kernel.answers()] == [taken]
    assert not kernel.channel.is_closed
    kernel.close()


@pytest.mark.anyio
async def test_cancellation_waits_for_the_answers() -> None:
    kernel = Kernel()
    kernel.fault.hold()
    async with anyio.create_task_group() as tasks:
        await tasks.start(kernel.channel.serve)
        taken = kernel.read(0, 512)
        kernel.reactor.turn()
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
        assert kernel.answers() == []
        kernel.fault.release()
    assert [answer[0] for answer in kernel.answers()] == [taken]
    kernel.close()


@pytest.mark.anyio
async def test_the_end_of_the_connection_is_told_once() -> None:
    kernel = Kernel()
    ends: list[bool] = []
    kernel.channel.closed.append(lambda: ends.append(True))
    async with anyio.create_task_group() as tasks:
        await tasks.start(kernel.channel.serve)
        kernel.socket.close()
        kernel.reactor.turn()
    assert ends == [True]
    assert kernel.channel.is_closed
    kernel.close()


@pytest.mark.anyio
async def test_slots_of_its_own_end_with_the_channel() -> None:
    kernel = Kernel()
    channel = NativeChannel(kernel.reactor, kernel.ours.fileno(), kernel.ram)
    fd = channel.slots.fd
    async with anyio.create_task_group() as tasks:
        await tasks.start(channel.serve)
        kernel.read(0, 512)
        kernel.reactor.turn()
        channel.stop()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    assert len(kernel.answers()) == 1
    assert channel.statistics.reads == 1
    kernel.close()


def test_libfuse_has_no_use_for_slots(kernel: Kernel) -> None:
    with pytest.raises(ValueError, match="request slots"):
        make_channel("pyfuse3", 0, kernel.ram, reactor=kernel.reactor, slots=kernel.slots)


def test_a_channel_that_is_not_installed_is_told(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "fusefs.fuse.pyfuse3_channel", raising=False)
    monkeypatch.setitem(sys.modules, "pyfuse3", None)
    with pytest.raises(NotAllowed, match=r"pyfuse3 is not installed; pip install 'pyscsi-init\["):
        make_channel("pyfuse3", 0, kernel.ram, reactor=kernel.reactor)
