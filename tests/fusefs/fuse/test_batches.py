# SPDX-License-Identifier: Apache-2.0
"""The answers of one turn leave together, and each request gets one whatever happens to them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from fusefs.fuse import abi, ring
from fusefs.fuse.abi import Opcode
from fusefs.fuse.ring import ENTRIES, open_ring
from pyscsi_init.device.fault import Match
from pyscsi_init.device.interface import Operation
from tests.fusefs.fuse.fake_kernel import Kernel
from tests.support.logs import ExpectLogs
from tests.support.mounted_file import Serve, eventually, opened, threads_on


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    kernel.channel.start()
    found = open_ring(kernel.ours.fileno())
    if found is None:
        pytest.skip("this kernel, or who confines us, has no io_uring")
    found.close()
    yield kernel
    kernel.close()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many answers each call of the ring was given."""
    found: list[int] = []
    real = ring._enter

    def enter(number: int, fd: int, count: int, *rest: Any) -> int:
        found.append(count)
        done: int = real(number, fd, count, *rest)
        return done

    monkeypatch.setattr(ring, "_enter", enter)
    return found


def held(kernel: Kernel, count: int) -> list[int]:
    """So many writes and reads by turns are under way."""
    kernel.fault.hold()
    content = os.urandom(4096)
    uniques = [
        kernel.write(each << 13, content) if each % 2 else kernel.read(each << 13, 4096)
        for each in range(count)
    ]
    while kernel.slots.kept < count:
        kernel.reactor.turn()
    return uniques


@pytest.mark.parametrize(
    ("count", "batches"),
    [
        (1, []),  # by a plain write
        (2, [2]),
        (ENTRIES, [ENTRIES]),
        (ENTRIES + 1, [ENTRIES, 1]),
        (3 * ENTRIES, [ENTRIES] * 3),
    ],
)
def test_answers_of_a_turn_leave_together(
    kernel: Kernel, calls: list[int], count: int, batches: list[int]
) -> None:
    uniques = held(kernel, count)
    kernel.reactor.in_one_turn(kernel.fault.release)
    assert [unique for unique, _, _ in kernel.answers()] == uniques
    assert calls == batches
    assert kernel.slots.outstanding() == []
    statistics = kernel.channel.statistics
    assert (statistics.reads, statistics.writes) == (count - count // 2, count // 2)


@pytest.mark.parametrize("when", ["at once", "after some", "in the second batch"])
def test_a_ring_that_fails_is_done_without(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, expect_logs: ExpectLogs, when: str
) -> None:
    """Nothing is lost: what may not have been written is written once more, which the kernel
    refuses where it was."""
    real = ring._enter
    good = {"at once": 0, "after some": 1, "in the second batch": 22}[when]

    def enter(number: int, fd: int, count: int, *rest: Any) -> int:
        nonlocal good
        if not good:
            return int(real(number, -1, count, *rest))  # EBADF
        good -= 1
        return int(real(number, fd, min(count, 3), *rest))

    monkeypatch.setattr(ring, "_enter", enter)
    uniques = held(kernel, ENTRIES + 5)
    expect_logs("one by one from here on")
    kernel.reactor.in_one_turn(kernel.fault.release)
    answers = [unique for unique, _, _ in kernel.answers()]
    assert sorted(set(answers)) == uniques
    assert len(answers) == len(uniques) + {"at once": 0, "after some": 3}.get(when, 0)
    assert kernel.slots.outstanding() == []
    uniques = held(kernel, 5)
    kernel.reactor.in_one_turn(kernel.fault.release)
    assert [unique for unique, _, _ in kernel.answers()] == uniques


def test_a_request_sent_again_while_its_answer_is_due(kernel: Kernel) -> None:
    """The kernel knows it by the new number only; under the old one nobody would be answered."""
    uniques = held(kernel, 6)

    def again() -> None:
        kernel.fault.clear()
        for each, unique in enumerate(uniques[:4]):
            kernel.unique = unique + abi.UNIQUE_RESEND - 2
            if each % 2:
                kernel.write(each << 13, bytes(4096))
            else:
                kernel.read(each << 13, 4096)
        assert kernel.reactor.reader is not None
        kernel.reactor.reader()

    kernel.reactor.in_one_turn(kernel.fault.release, again)
    found = [unique for unique, _, _ in kernel.answers()]
    assert found == [unique | abi.UNIQUE_RESEND for unique in uniques[:4]] + uniques[4:]
    assert kernel.slots.outstanding() == []


def test_a_connection_that_has_ended_is_no_news_for_answers(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/fuse says ENODEV where a socket says EPIPE; the next read tells the channel."""
    monkeypatch.setattr("fusefs.fuse.inflight.ENDED", (errno.EPIPE,))
    held(kernel, 10)
    kernel.socket.close()
    kernel.reactor.in_one_turn(kernel.fault.release)  # and nothing is logged
    assert kernel.slots.outstanding() == []
    assert not kernel.channel.is_closed
    kernel.reactor.turn()
    assert kernel.channel.is_closed


def test_refused_answers_are_logged(kernel: Kernel, expect_logs: ExpectLogs) -> None:
    held(kernel, 10)
    kernel.socket.close()
    expect_logs("refused.*Broken pipe", at_least=10)
    kernel.reactor.in_one_turn(kernel.fault.release)


def test_a_flush_never_covers_what_was_not_done_before_it(kernel: Kernel) -> None:
    """Writes are counted with their answers; one that is done and due counts as not flushed."""
    kernel.fault.hold(Match(operations=frozenset({Operation.WRITE})))
    for each in range(4):
        kernel.write(each << 12, bytes(4096))
    kernel.reactor.turn()
    kernel.reactor.in_one_turn(lambda: kernel.fault.release(2))
    kernel.ask(Opcode.FSYNC, bytes(16))
    assert kernel.reactor.reader is not None
    kernel.reactor.in_one_turn(lambda: kernel.fault.release(1), kernel.reactor.reader)
    statistics = kernel.channel.statistics
    assert (statistics.writes, statistics.flushed_writes) == (3, 2)
    kernel.fault.release()
    assert (statistics.writes, statistics.flushed_writes) == (4, 2)
    kernel.ask(Opcode.FSYNC, bytes(16))
    kernel.reactor.turn()
    assert statistics.flushed_writes == 4


@pytest.mark.anyio
async def test_stop_between_completion_and_answer_waits_for_the_answer() -> None:
    kernel = Kernel()
    async with anyio.create_task_group() as tasks:
        await tasks.start(kernel.channel.serve)
        uniques = held(kernel, 4)
        kernel.reactor.in_one_turn(kernel.fault.release, kernel.channel.stop)
    assert [unique for unique, _, _ in kernel.answers()] == uniques
    assert kernel.channel._in_flight._ring is None
    kernel.close()


@pytest.mark.root
@pytest.mark.parametrize("count", [2, 40, ENTRIES + 30])
def test_a_mount_gets_every_answer_of_a_batch(native: Serve, count: int) -> None:
    server = native(fault=True)
    content = [os.urandom(4096) for _ in range(count)]
    with opened(server.path) as fd:
        for each, block in enumerate(content):
            os.pwrite(fd, block, each * 8192)
        server.call("hold", "READ")

        def read(each: int) -> bytes:
            return os.pread(fd, 4096, each * 8192)

        with threads_on(server, count) as threads:
            done = threads.map(read, range(count))
            eventually(lambda: server.call("held") == count)
            server.call("release", "lifo")
            assert list(done) == content
        assert server.call("statistics")["in_flight"] == 0
