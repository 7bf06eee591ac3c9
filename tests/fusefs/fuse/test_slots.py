# SPDX-License-Identifier: Apache-2.0
"""Request slots: what a killed server leaves, what its successor does with it, and in which order.

Here the server ends between two turns of the reactor; test_slots_at_each_step.py ends it anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from fusefs.fuse import RequestSlots, abi, inflight, native, ring
from fusefs.fuse.abi import Opcode
from fusefs.fuse.slotmemory import BIG_BYTES, SMALL_BYTES
from fusefs.fuse.slots import UNIQUE_WORD, WORDS
from pyscsi_init.device.fault import Match
from pyscsi_init.device.interface import BlockRequest, Operation
from pyscsi_init.errors import SessionFailed
from tests.fusefs.fuse.fake_kernel import SIZE, Kernel

LONG = 300_000
INIT_IN = struct.pack("=IIIII", 7, 38, 1 << 17, abi.InitFlag.ASYNC_DIO, 0) + bytes(44)
PUNCH = 3


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    kernel.channel.start()
    yield kernel
    kernel.close()


def used(slots: RequestSlots) -> int:
    return os.fstat(slots.fd).st_blocks * 512


# -- what is outstanding ------------------------------------------------------------------------


def test_what_is_not_answered_is_outstanding_in_order(kernel: Kernel) -> None:
    kernel.fault.hold()
    wanted = [
        (Opcode.READ, kernel.read(0, 512)),
        (Opcode.WRITE, kernel.write(0, b"x" * 512)),
        (Opcode.FSYNC, kernel.ask(Opcode.FSYNC, bytes(16))),
        (Opcode.WRITE, kernel.write(0, b"x" * LONG)),
        (Opcode.FALLOCATE, kernel.ask(Opcode.FALLOCATE, struct.pack("=QQQII", 0, 0, 512, 3, 0))),
    ]
    kernel.ask(Opcode.LOOKUP, b"n" * 200 + b"\0", node=1)
    kernel.ask(Opcode.FORGET, bytes(8))
    kernel.ask(Opcode.INTERRUPT, bytes(8))
    kernel.reactor.turn()
    assert [(each.opcode, each.unique) for each in kernel.slots.outstanding()] == wanted
    assert len(kernel.answers()) == 2
    assert kernel.channel.statistics.in_flight == 5
    kernel.fault.release(order="lifo")
    assert kernel.slots.outstanding() == []


@pytest.mark.parametrize(
    ("opcode", "payload", "is_write"),
    [
        (Opcode.READ, abi.READ_IN.pack(0, 0, 512, 0, 0, 0, 0), False),
        (Opcode.FSYNC, bytes(16), False),
        (Opcode.WRITE, abi.WRITE_IN.pack(0, 0, 512, 0, 0, 0, 0) + bytes(512), True),
        (Opcode.FALLOCATE, struct.pack("=QQQII", 0, 0, 512, PUNCH, 0), True),
    ],
)
def test_outstanding_writes_are_those_of_unknown_outcome(
    kernel: Kernel, opcode: Opcode, payload: bytes, is_write: bool
) -> None:
    kernel.fault.hold()
    kernel.ask(opcode, payload)
    assert not kernel.slots.has_unknown_outcome()
    kernel.reactor.turn()
    assert kernel.slots.has_unknown_outcome() is is_write
    kernel.fault.release()
    assert not kernel.slots.has_unknown_outcome()


@pytest.mark.parametrize(
    ("opcode", "payload", "in_doubt"),
    [
        (Opcode.READ, abi.READ_IN.pack(0, 0, 512, 0, 0, 0, 0), False),
        (Opcode.WRITE, abi.WRITE_IN.pack(0, 0, 512, 0, 0, 0, 0) + bytes(512), True),
        (Opcode.FALLOCATE, struct.pack("=QQQII", 0, 0, 512, PUNCH, 0), True),
        (Opcode.FALLOCATE, struct.pack("=QQQII", 0, 0, 512, 0, 0), False),
    ],
)
def test_a_change_that_was_given_up_is_of_unknown_outcome(
    kernel: Kernel, opcode: Opcode, payload: bytes, in_doubt: bool
) -> None:
    """Its slot is free, and the disk may still have it; what we refuse ourselves it never had."""
    kernel.fault.fail(SessionFailed("away for too long"))
    kernel.ask(opcode, payload)
    kernel.reactor.turn()
    assert kernel.slots.outstanding() == []
    assert kernel.slots.has_unknown_outcome() is in_doubt
    with contextlib.closing(RequestSlots(os.dup(kernel.slots.fd))) as successor:
        assert successor.has_unknown_outcome() is in_doubt
        successor.settle()
    assert not kernel.slots.has_unknown_outcome()


# -- the order that everything stands on --------------------------------------------------------


def test_a_slot_is_cleared_after_its_answer_and_before_anything_else(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system call that writes answers begins with no answered slot and ends before the slots of
    its answers are cleared; when something is read or submitted, there is none."""
    answered: list[int] = []
    batches: list[int] = []
    real_write, real_readv, real_enter = os.write, os.readv, ring._enter

    def outstanding() -> set[int]:
        return {each.unique for each in kernel.slots.outstanding()}

    def written() -> int:
        seen = [unique for unique, _, _ in kernel.answers()]
        assert outstanding().issuperset(seen), "a slot was cleared before the answer"
        answered.extend(seen)
        return len(seen)

    def write(fd: int, data: bytes | memoryview) -> int:
        assert not outstanding() & set(answered), "a slot was not cleared after its answer"
        done = real_write(fd, data)
        assert written() == 1
        return done

    def enter(*arguments: Any) -> int:
        assert not outstanding() & set(answered), "a slot was not cleared before the next batch"
        done = real_enter(*arguments)
        batches.append(written())
        return done

    def readv(fd: int, buffers: tuple[memoryview, memoryview]) -> int:
        assert not outstanding() & set(answered), "a slot was not cleared before the next read"
        return real_readv(fd, buffers)

    def submitted(_: BlockRequest) -> bool:
        assert not outstanding() & set(answered), "a slot was not cleared before a submission"
        return False

    monkeypatch.setattr(inflight, "_write", write)
    monkeypatch.setattr(ring, "_enter", enter)
    monkeypatch.setattr(native, "_readv", readv)
    kernel.fault.hold(Match(predicate=submitted))
    for round_ in range(3):
        if round_ == 1:
            kernel.fault.hold(Match(operations=frozenset({Operation.READ, Operation.WRITE})))
        for size in (512, 4096, 5000, LONG):
            kernel.write(0, b"x" * size)
            kernel.read(0, size)
        kernel.read(SIZE, 512)
        kernel.write(SIZE, b"x")
        kernel.ask(Opcode.FSYNC, bytes(16))
        kernel.ask(Opcode.FALLOCATE, struct.pack("=QQQII", 0, 100, 8000, PUNCH, 0))
        kernel.ask(Opcode.FALLOCATE, struct.pack("=QQQII", 0, 100, 8000, 0, 0))
        kernel.ask(Opcode.GETATTR, bytes(16))
        kernel.ask(Opcode.IOCTL, bytes(40))
        kernel.reactor.turn()
        kernel.reactor.in_one_turn(lambda: kernel.fault.release(order="lifo"))
    assert len(set(answered)) == 3 * 15 == len(answered)
    assert batches == [8] * 3


# -- a successor --------------------------------------------------------------------------------


def test_a_successor_does_all_before_it_reads(kernel: Kernel) -> None:
    kernel.fault.hold()
    data = {offset: os.urandom(size) for offset, size in ((0, 5000), (1 << 20, LONG))}
    left = [kernel.write(offset, content) for offset, content in data.items()]
    left += [kernel.read(2 << 20, 4096), kernel.ask(Opcode.FSYNC, bytes(16))]
    kernel.reactor.turn()
    kernel.succeed()
    assert [each.unique for each in kernel.slots.outstanding()] == left
    newer = kernel.write(0, b"newer" * 1000)
    kernel.fault.hold()
    kernel.channel.start()
    assert kernel.reactor.reader is None
    kernel.fault.release(3, order="lifo")
    assert len(kernel.answers()) == 3
    assert kernel.reactor.reader is None, "it reads before all that was left is answered"
    assert kernel.channel.statistics.in_flight == 1
    kernel.fault.clear()
    kernel.fault.release()
    kernel.reactor.turn()
    assert [answer[0] for answer in kernel.answers()] == [left[0], newer]
    assert kernel.ram._view[:5000] == b"newer" * 1000
    assert kernel.ram._view[1 << 20 : (1 << 20) + LONG] == data[1 << 20]
    assert kernel.ram.flushes == 1
    assert kernel.slots.outstanding() == []


def test_a_successor_of_a_successor(kernel: Kernel) -> None:
    kernel.fault.hold()
    data = [os.urandom(size) for size in (512, 70_000, SMALL_BYTES, 1 << 20)]
    for number, content in enumerate(data):
        kernel.write(number << 20, content)
    kernel.reactor.turn()
    for _ in range(3):
        kernel.succeed()
        kernel.fault.hold()
        kernel.channel.start()
        assert len(kernel.fault.held) == 4
    kernel.fault.release()
    assert len(kernel.answers()) == 4
    for number, content in enumerate(data):
        assert kernel.ram._view[number << 20 : (number << 20) + len(content)] == content
    assert sorted([*kernel.slots.free_areas, kernel.slots.landing]) == list(range(8))


def test_a_successor_of_one_with_every_area_kept() -> None:
    kernel = Kernel(areas=3)
    kernel.channel.start()
    kernel.fault.hold()
    uniques = [kernel.write(number << 20, bytes((number + 1,)) * LONG) for number in range(5)]
    kernel.reactor.turn()
    kernel.succeed()
    kernel.channel.start()
    kernel.reactor.turn()
    assert sorted(answer[0] for answer in kernel.answers()) == uniques
    assert [kernel.ram._view[number << 20] for number in range(5)] == [1, 2, 3, 4, 5]
    kernel.close()


def test_init_is_agreed_on_once(kernel: Kernel) -> None:
    assert kernel.channel.init is None
    kernel.ask(Opcode.INIT, INIT_IN, node=0)
    kernel.reactor.turn()
    agreed = kernel.channel.init
    assert agreed is not None
    assert kernel.answers()[0][2] == agreed.encode()
    kernel.succeed()
    assert kernel.channel.init == kernel.slots.init == agreed


def test_a_request_sent_again_is_not_done_twice(kernel: Kernel) -> None:
    kernel.fault.hold()
    original = kernel.write(0, b"x" * 4096)
    kernel.reactor.turn()
    kernel.unique = original + abi.UNIQUE_RESEND - 2
    again = kernel.write(0, b"x" * 4096)
    assert again == original | abi.UNIQUE_RESEND
    kernel.reactor.turn()
    assert len(kernel.fault.held) == 1
    assert [each.unique for each in kernel.slots.outstanding()] == [again]
    kernel.succeed()
    kernel.fault.hold()
    kernel.channel.start()
    assert len(kernel.fault.held) == 1
    kernel.fault.release()
    assert [answer[0] for answer in kernel.answers()] == [again]


def test_half_a_write_is_not_done(kernel: Kernel) -> None:
    """When the kernel's copy fails, the request has ended; its header may be in the slot."""
    header = abi.IN_HEADER.pack(80 + 4096, Opcode.WRITE, 6, 2, 0, 0, 0, 0, 0)
    slot = kernel.slots.receiving
    kernel.slots.headers[slot][:40] = header
    kernel.succeed()
    kernel.channel.start()
    assert kernel.answers() == [(6, errno.EIO, b"")]
    assert kernel.fault.log == []
    assert kernel.slots.outstanding() == []


@pytest.mark.anyio
async def test_stop_leaves_no_slot(kernel: Kernel) -> None:
    kernel = Kernel()
    kernel.fault.hold()
    async with anyio.create_task_group() as tasks:
        await tasks.start(kernel.channel.serve)
        kernel.write(0, bytes(LONG))
        kernel.read(0, 512)
        kernel.reactor.turn()
        kernel.channel.stop()
        kernel.read(0, 512)
        kernel.fault.release()
    assert len(kernel.answers()) == 2
    assert kernel.slots.outstanding() == []
    kernel.succeed()
    kernel.channel.start()
    kernel.reactor.turn()
    assert len(kernel.answers()) == 1
    kernel.close()


def test_slots_that_contradict_themselves_are_refused(kernel: Kernel) -> None:
    words = kernel.slots.words
    for slot in (3, 5):
        words[slot * WORDS] = 80 + LONG | int(Opcode.WRITE) << 32
        words[slot * WORDS + UNIQUE_WORD] = 2 * slot
        words[slot * WORDS + 10] = 4
    fd = os.dup(kernel.slots.fd)
    with pytest.raises(ValueError, match="slot 5 claims the payload area 3"):
        RequestSlots(fd)
    words[5 * WORDS + 10] = 99
    with pytest.raises(ValueError, match="slot 5 claims the payload area 98"):
        RequestSlots(fd)
    words[5 * WORDS] = 7
    with pytest.raises(ValueError, match="slot 5 holds a message of 7 bytes"):
        RequestSlots(fd)
    os.close(fd)


def test_too_few_slots() -> None:
    for counts in ((1, 2), (2, 1)):
        with pytest.raises(ValueError, match="a slot and an area"):
            RequestSlots.create(*counts)


# -- memory -------------------------------------------------------------------------------------


def test_idle_slots_give_memory_back(kernel: Kernel) -> None:
    idle = used(kernel.slots)
    kernel.fault.hold()
    for number in range(6):
        kernel.write(number << 20, bytes(1 << 20))
        kernel.write(number << 20, bytes(SMALL_BYTES))
        kernel.read(number << 20, 1 << 20)
    kernel.reactor.turn()
    kernel.fault.release()
    busy = used(kernel.slots)
    assert busy > idle + 6 * BIG_BYTES
    kernel.reactor.pass_time(native.IDLE_S + 1)
    kernel.reactor.pass_time(native.IDLE_S + 1)
    assert used(kernel.slots) <= idle + 12 * 4096
    assert idle < 3 << 19, "more than one landing area and the table"
    assert not kernel.reactor.timers, "an idle channel has no timer"
    # And all of it can be used again, as at the first time.
    for number in range(6):
        kernel.write(number << 20, b"x" * (1 << 20))
        kernel.write(number << 20, b"y" * SMALL_BYTES)
    kernel.reactor.turn()
    kernel.fault.release()
    assert abs(used(kernel.slots) - busy) < 12 * 4096
    kernel.reactor.pass_time(native.IDLE_S + 1)
    kernel.reactor.pass_time(native.IDLE_S + 1)
    assert used(kernel.slots) <= idle + 18 * 4096


def test_memory_is_kept_while_something_is_under_way(kernel: Kernel) -> None:
    kernel.fault.hold()
    content = os.urandom(1 << 20)
    kernel.write(0, content)
    kernel.write(1 << 20, content[:SMALL_BYTES])
    kernel.reactor.turn()
    for _ in range(4):
        kernel.reactor.pass_time(native.IDLE_S + 1)
    kernel.slots.trim()
    kernel.fault.release()
    assert kernel.ram._view[: 1 << 20] == content
    assert kernel.ram._view[1 << 20 : (1 << 20) + SMALL_BYTES] == content[:SMALL_BYTES]


def test_where_the_kernel_writes_is_in_memory_before_the_read(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.readv
    seen = []

    def readv(fd: int, buffers: tuple[memoryview, memoryview]) -> int:
        before = used(kernel.slots)
        length = real(fd, buffers)
        assert used(kernel.slots) == before, "a page was missing"
        seen.append(length)
        return length

    monkeypatch.setattr(native, "_readv", readv)
    kernel.fault.hold()
    for number in range(6):
        kernel.write(number << 20, bytes(1 << 20))
        kernel.write(0, bytes(SMALL_BYTES))
    kernel.reactor.turn()
    kernel.fault.clear()
    kernel.fault.release()
    kernel.reactor.pass_time(native.IDLE_S + 1)
    kernel.reactor.pass_time(native.IDLE_S + 1)
    for number in range(6):
        kernel.write(number << 20, bytes(1 << 20))
    kernel.reactor.turn()
    assert len(seen) == 18
