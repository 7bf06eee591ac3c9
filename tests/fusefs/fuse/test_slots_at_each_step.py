# SPDX-License-Identifier: Apache-2.0
"""A server that dies between any two bytecodes of its own code, as by SIGKILL, and its successor.

Here the moment of death is exact and every one can be tried; test_slots_under_kill.py kills real
processes on a real mount, at random.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusefs.fuse
from fusefs.fuse import abi, inflight, ring
from fusefs.fuse.abi import Opcode
from fusefs.fuse.slotmemory import SMALL_BYTES
from pyscsi_init.device.fault import Match
from pyscsi_init.device.interface import Operation
from tests.fusefs.fuse.fake_kernel import Kernel

LONG = 300_000
INIT_IN = struct.pack("=IIIII", 7, 38, 1 << 17, abi.InitFlag.ASYNC_DIO, 0) + bytes(44)


class Killed(BaseException):
    """The server is dead; not an Exception, so that nothing of it goes on."""


def run_and_kill(work: Callable[[], None], after: int) -> bool:
    """Run ``work``, and end it before the bytecode number ``after`` of the channel's own code.
    False when it came to its end."""
    folder = os.path.dirname(fusefs.fuse.__file__)
    left = after

    def step(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if event == "call":
            if not frame.f_code.co_filename.startswith(folder):
                return None
            frame.f_trace_opcodes = True
        elif event == "opcode":
            left -= 1
            if left < 0:
                raise Killed
        return step

    previous = sys.gettrace()
    sys.settrace(step)
    try:
        work()
    except Killed:
        return True
    finally:
        sys.settrace(previous)
    return False


class Disk:
    """What the kernel knows of its requests: each block's newest content, one request a block at a
    time, and the next one for a block as soon as the last one is answered."""

    BLOCKS = 6
    ROUNDS = 4
    NAME = b"n" * 99 + b"\0"
    INIT = INIT_IN

    def __init__(self, seed: int) -> None:
        self.kernel = Kernel(slots=40, areas=3)
        self.random = random.Random(seed)
        self.writes: dict[int, int] = {}
        self.reads: dict[int, int] = {}
        self.others: set[int] = set()
        self.rounds = dict.fromkeys(range(self.BLOCKS), 0)
        self.wanted: dict[int, bytes] = {}
        self.agreed = b""
        self.batched: Counter[int] = Counter()
        """How often so many answers of a batch were still to be written."""
        self.init = self.kernel.ask(Opcode.INIT, self.INIT, node=0)

    def content(self, block: int) -> bytes:
        size = (100, 4096, 5000, SMALL_BYTES, SMALL_BYTES + 1, LONG)[block % 6]
        return struct.pack("=II", block, self.rounds[block]) * (size // 8) + bytes(size % 8)

    def write(self, block: int) -> None:
        self.rounds[block] += 1
        self.wanted[block] = self.content(block)
        self.writes[self.kernel.write(block << 20, self.wanted[block])] = block

    def go_on(self, block: int) -> None:
        if self.rounds[block] < self.ROUNDS:
            self.write(block)

    def take_answers(self) -> None:
        for unique, error, body in self.kernel.answers():
            if unique == 0:
                continue  # told without being asked
            if unique == self.init:
                self.agreed = self.agreed or body
            elif unique in self.reads:
                block = self.reads.pop(unique)
                self.check_block(block, body)
                self.go_on(block)
            elif unique in self.writes:
                assert error == 0
                block = self.writes.pop(unique)
                if self.random.random() < 0.5:
                    size = len(self.wanted[block])
                    self.reads[self.kernel.read(block << 20, size)] = block
                    self.others.add(self.kernel.ask(Opcode.FSYNC, bytes(16)))
                    self.others.add(self.kernel.ask(Opcode.LOOKUP, self.NAME, node=1))
                else:
                    self.go_on(block)
            else:
                self.others.discard(unique)  # one that was answered before is refused by a kernel

    def check_block(self, block: int, found: bytes | memoryview) -> None:
        is_newest = found == self.wanted[block]
        assert is_newest, f"block {block}: version {found[4]}, not {self.wanted[block][4]}"

    def work(self) -> None:
        """What the server does until all is done."""
        self.kernel.channel.start()
        while self.writes or self.reads or self.others:
            if self.kernel.reactor.reader is not None:
                self.kernel.reactor.turn()
            order: Literal["fifo", "lifo"] = self.random.choice(("fifo", "lifo"))
            self.kernel.reactor.in_one_turn(partial(self.kernel.fault.release, order=order))

    def go_on_after_a_kill(self) -> None:
        self.take_answers()
        self.kernel.succeed()

    def check(self) -> None:
        assert self.kernel.slots.outstanding() == []
        assert self.kernel.slots.init is not None
        assert self.kernel.slots.init.encode() == self.agreed
        assert set(self.rounds.values()) == {self.ROUNDS}
        for block, content in self.wanted.items():
            self.check_block(
                block, self.kernel.ram._view[block << 20 : (block << 20) + len(content)]
            )


@contextlib.contextmanager
def answers_are_seen_at_once(disk: Disk) -> Iterator[None]:
    """The kernel sends what depends on an answer while the server is still in the middle.

    A batch is written one answer a call, so the server also dies between any two of its answers, as
    a real one does inside of the call.
    """
    real, real_enter = os.write, ring._enter

    def write(fd: int, data: bytes | memoryview) -> int:
        done = real(fd, data)
        disk.take_answers()
        return done

    def enter(number: int, fd: int, count: int, *rest: Any) -> int:
        disk.batched[count] += 1
        done: int = real_enter(number, fd, 1, *rest)
        disk.take_answers()
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inflight, "_write", write)
        patch.setattr(ring, "_enter", enter)
        yield


def survive(seed: int, moments: list[int]) -> None:
    """A workload whose server is killed at each of these numbers of bytecodes."""
    disk = Disk(seed)
    with contextlib.closing(disk.kernel), answers_are_seen_at_once(disk):
        for block in range(Disk.BLOCKS):
            disk.write(block)
        for moment in moments:
            hold = frozenset({Operation.WRITE}) if seed % 2 else frozenset({Operation.FLUSH})
            disk.kernel.fault.hold(Match(operations=hold))
            if not run_and_kill(disk.work, moment):
                break
            disk.go_on_after_a_kill()
            # What was left comes to an end in any order.
            disk.kernel.fault.hold()
        disk.work()
        disk.check()
        assert disk.batched[2], "nothing was written in a batch"


@settings(max_examples=150)
@given(st.integers(0, 1000), st.lists(st.integers(0, 15000), min_size=1, max_size=5))
def test_nothing_is_lost_or_stale_wherever_it_is_killed(seed: int, moments: list[int]) -> None:
    survive(seed, moments)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.soak)])
def test_killed_at_each_step(seed: int, step: int) -> None:
    """Of the first requests: each kind of write, read, copied or kept, and answered."""
    for moment in range(0, 3000, step):
        survive(seed, [moment])


def test_a_slot_that_is_cleared_too_late_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof that the two tests above can fail: slots of a batch cleared after the next read."""

    class Late(list[int]):
        """Words of the table to be zeroed, and slots to be free: later."""

        def __setitem__(self, index: Any, value: Any) -> None:
            self.append(index)

    real = inflight.InFlight._write_due

    def write_due(self: Any) -> None:
        slots, reactor = self._slots, self._at_end_of_turn.__self__
        words, free = Late(), Late()
        self._words, self._free = words, free
        real(self)
        if reactor.reader is not None:
            reactor.reader()
        for word in words:
            slots.words[word] = 0
        slots.free.extend(free)
        self._words, self._free = slots.words, slots.free
        if self.landed is not None:
            self.landed()

    # Without long messages: two of them in one area are refused before they can do harm.
    monkeypatch.setattr(Disk, "BLOCKS", 4)
    monkeypatch.setattr(Disk, "NAME", b"n\0")
    monkeypatch.setattr(Disk, "INIT", INIT_IN[:16])
    survive(0, [])
    monkeypatch.setattr(inflight.InFlight, "_write_due", write_due)
    survive(0, [])
    found = []
    for moment in range(6000, 12000, 30):
        try:
            survive(0, [moment])
        except AssertionError as error:
            found.append(str(error))
    assert sum(": version " in each for each in found) > 10, found
