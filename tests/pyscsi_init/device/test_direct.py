# SPDX-License-Identifier: Apache-2.0
"""The short cut for whole blocks, and where it meets the way through the layers."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from pyscsi_init import BlockRequest, Operation
from pyscsi_init.device.alignment import AlignmentDevice
from pyscsi_init.errors import MediumError, OutOfRange, TaskAborted
from pyscsi_init.scsi import Status
from pyscsi_init.testing import READS, WRITES, FileDisk, RamDisk
from tests.support.python_target import MEBI, PATIENCE, RecordingDisk, make_target, opened, until

pytestmark = pytest.mark.anyio

BLOCK = 512
AT = 1 * MEBI
"""Beyond the start of the disk, whose writes are followed one by one."""


@pytest.fixture
def layered(monkeypatch: pytest.MonkeyPatch) -> list[BlockRequest]:
    """The requests that took the way through the layers."""
    seen: list[BlockRequest] = []
    submit = AlignmentDevice.submit

    def noted(device: AlignmentDevice, request: BlockRequest) -> None:
        seen.append(request)
        submit(device, request)

    monkeypatch.setattr(AlignmentDevice, "submit", noted)
    return seen


async def test_whole_blocks_take_the_short_cut(layered: list[BlockRequest]) -> None:
    data = os.urandom(16 * BLOCK)
    async with opened(make_target(RamDisk(16 * MEBI))) as lun:
        await lun.write(AT, data)
        assert await lun.read(AT, len(data)) == data
        assert await lun.read(0, BLOCK) == bytes(BLOCK)
        await lun.write(AT, data, fua=True)
        assert layered == []
        await lun.write(0, data)
        await lun.write(AT + 1, b"x")
        assert await lun.read(AT, 2) == data[:1] + b"x"
        assert await lun.read(AT, 0) == b""
        await lun.flush()
        with pytest.raises(OutOfRange):
            await lun.read(lun.size_bytes, BLOCK)
        assert [(each.operation.name, each.length) for each in layered if each.length] == [
            ("WRITE", len(data)),
            ("WRITE", 1),
            ("READ", 2),
            ("READ", BLOCK),
        ]


async def test_tasks_are_used_again() -> None:
    async with opened(make_target(RamDisk(16 * MEBI))) as lun:
        for _ in range(5):
            await lun.write(AT, b"w" * BLOCK)
            await lun.read(AT, BLOCK)
        assert (len(lun._readers), len(lun._writers)) == (1, 1)


async def test_a_task_whose_time_was_up_once_is_not_used_again() -> None:
    """Its answer came before that of its ABORT TASK. The count of its silences belongs to the one
    command: four on one task end a command that would have been repeated."""
    target = make_target(RamDisk(16 * MEBI))
    async with opened(target) as lun, anyio.create_task_group() as group:
        held = target.faults.hold_writes(lba=AT // BLOCK, times=1)
        group.start_soon(lun.write, AT, b"a" * BLOCK)
        with anyio.fail_after(PATIENCE):
            await held.wait()
        (task,) = lun.session.tasks()
        task.silences += 1
        held.release()
        with anyio.fail_after(PATIENCE):
            await until(lambda: not lun.session.tasks())
        assert lun._writers == []
        await lun.write(AT, b"b" * BLOCK)
        assert [task.silences for task in lun._writers] == [0]
        assert await lun.read(AT, BLOCK) == b"b" * BLOCK


async def test_a_modifying_write_waits_for_a_direct_one_on_its_block() -> None:
    """Else it would read the block before the write and put the old bytes back after it."""
    disk = RecordingDisk(16 * MEBI)
    target = make_target(disk)
    async with opened(target) as lun, anyio.create_task_group() as group:
        held = target.faults.hold_writes(lba=AT // BLOCK, times=1)
        group.start_soon(lun.write, AT, b"a" * BLOCK)
        with anyio.fail_after(PATIENCE):
            await held.wait()
        group.start_soon(lun.write, AT + 5, b"b")
        group.start_soon(lun.write, AT + 7, b"c")
        await anyio.wait_all_tasks_blocked()
        assert disk.writes == []
        held.release()
        with anyio.fail_after(PATIENCE):
            await until(lambda: len(disk.writes) == 3)
        expected = bytearray(b"a" * BLOCK)
        expected[5:6], expected[7:8] = b"b", b"c"
        assert await lun.read(AT, BLOCK) == expected


async def test_a_direct_write_that_is_repeated_is_still_waited_for() -> None:
    """BUSY sends it on the way through the layers; the rule holds there too."""
    disk = RecordingDisk(16 * MEBI)
    target = make_target(disk)
    async with opened(target) as lun, anyio.create_task_group() as group:
        target.faults.status(Status.BUSY, lba=AT // BLOCK, opcode=WRITES)
        held = target.faults.hold_writes(lba=AT // BLOCK, times=1)
        group.start_soon(lun.write, AT, b"a" * BLOCK)
        with anyio.fail_after(PATIENCE):
            await held.wait()
        group.start_soon(lun.write, AT + 5, b"b")
        await anyio.wait_all_tasks_blocked()
        assert disk.writes == []
        held.release()
    assert [first for _, first in disk.writes] == [b"a", b"a"]
    assert disk.read(AT, 8) == b"aaaaabaa"


async def test_an_error_is_told_and_the_task_not_used_again() -> None:
    target = make_target(RamDisk(16 * MEBI))
    async with opened(target) as lun:
        target.faults.check_condition(3, 0x11, 0, opcode=READS)
        with pytest.raises(MediumError):
            await lun.read(AT, BLOCK)
        assert lun._readers == []
        assert await lun.read(AT, BLOCK) == bytes(BLOCK)
        assert len(lun._readers) == 1


async def test_an_aborted_read_does_not_end_the_one_after_it() -> None:
    """Its answer and the answer to ABORT TASK come one after the other: the second must not meet
    the next command of the same task object."""
    target = make_target(RamDisk(16 * MEBI))
    async with opened(target) as lun:
        for _ in range(50):
            with anyio.move_on_after(0):
                await lun.read(AT, BLOCK)
            assert await lun.read(AT, BLOCK) == bytes(BLOCK)


async def test_cancel_and_close_find_direct_requests() -> None:
    target = make_target(RamDisk(16 * MEBI))
    ended: list[BlockRequest] = []
    async with opened(target) as lun:
        held = target.faults.hold(opcode=READS)
        requests = [
            BlockRequest(Operation.READ, AT, BLOCK, bytearray(BLOCK), ended.append)
            for _ in range(3)
        ]
        for request in requests:
            lun.submit(request)
        with anyio.fail_after(PATIENCE):
            await held.wait(3)
        lun.cancel(requests[1])
        await until(lambda: ended)
        assert ended == [requests[1]]
        assert isinstance(ended[0].error, TaskAborted)
        async with anyio.create_task_group() as group:
            group.start_soon(lun.aclose)
            await anyio.wait_all_tasks_blocked()
            assert len(ended) == 1
            held.release()
        assert [each.error for each in ended[1:]] == [None, None]


async def test_cancel_finds_the_direct_read_under_an_unaligned_one() -> None:
    """While the target is away nothing else would ever end it."""
    target = make_target(RamDisk(16 * MEBI))
    ended: list[BlockRequest] = []
    async with opened(target) as lun:
        held = target.faults.hold(opcode=READS)
        request = BlockRequest(Operation.READ, AT + 5, 100, bytearray(100), ended.append)
        lun.submit(request)
        with anyio.fail_after(PATIENCE):
            await held.wait()
        lun.cancel(request)
        await until(lambda: ended)
        assert ended == [request]
        assert isinstance(request.error, TaskAborted)


async def test_beyond_what_ten_bytes_can_address(tmp_path: Path) -> None:
    """READ(16) and WRITE(16) from the LBA 2**32 on (SBC-3 5.11, 5.33)."""
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 3 << 40)
    disk = FileDisk(path)
    async with opened(make_target(disk)) as lun:
        for offset in ((1 << 32) * BLOCK - BLOCK, (1 << 32) * BLOCK, (3 << 40) - 2 * BLOCK):
            data = os.urandom(2 * BLOCK)
            await lun.write(offset, data)
            assert await lun.read(offset, len(data)) == data
            assert disk.read(offset, len(data)) == data
    disk.close()
