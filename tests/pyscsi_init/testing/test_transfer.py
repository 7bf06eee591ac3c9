# SPDX-License-Identifier: Apache-2.0
"""Data over a real socket: bursts, R2T, Data-In, residuals; spoken by raw_initiator.py."""

from __future__ import annotations

import anyio
import pytest

from pyscsi_init.pdu import (
    DataIn,
    DataOut,
    ReadyToTransfer,
)
from pyscsi_init.testing import (
    LogicalUnit,
    RamDisk,
    Target,
    TargetServer,
    TargetSettings,
)
from tests.pyscsi_init.testing.raw_initiator import (
    TEST_UNIT_READY,
    logged_in,
    read_10,
    write_10,
)

pytestmark = pytest.mark.anyio

IQN = "iqn.2024-01.example:disk"
SIZE = 4 << 20
PATTERN = (bytes(i * 7 % 251 for i in range(251)) * 4178)[: 1 << 20]


def make_target(**settings: object) -> Target:
    return Target(IQN, luns={0: RamDisk(SIZE)}, settings=TargetSettings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("digest", ["None", "CRC32C"])
@pytest.mark.parametrize("initial_r2t", ["Yes", "No"])
@pytest.mark.parametrize("immediate", ["Yes", "No"])
async def test_writes_and_reads(digest: str, initial_r2t: str, immediate: str) -> None:
    target = make_target(max_recv_data_segment_length=4096)
    keys = {
        "HeaderDigest": digest,
        "DataDigest": digest,
        "InitialR2T": initial_r2t,
        "ImmediateData": immediate,
    }
    async with (
        TargetServer([target]).running() as portal,
        logged_in(portal, IQN, **keys) as initiator,
    ):
        for lba, blocks in ((0, 1), (5, 3), (100, 2048)):
            data = PATTERN[: blocks * 512]
            assert (await initiator.execute(write_10(lba, blocks), write=data)).status == 0
            answer = await initiator.execute(read_10(lba, blocks), read=len(data))
            assert (answer.status, answer.data == data) == (0, True)
        assert target.luns[0].disk.read(100 * 512, 1 << 20) == PATTERN


async def test_r2ts_keep_to_max_burst_and_max_outstanding() -> None:
    target = make_target(max_recv_data_segment_length=512, max_outstanding_r2t=3)
    keys = {"MaxBurstLength": "2048", "FirstBurstLength": "512"}
    async with (
        TargetServer([target]).running() as portal,
        logged_in(portal, IQN, **keys) as initiator,
    ):
        data = PATTERN[:10240]
        tag = await initiator.start(write_10(0, 20), write=data)
        asked = [await initiator.receive() for _ in range(3)]
        assert all(isinstance(pdu, ReadyToTransfer) for pdu in asked)
        spans = [(p.r2t_sn, p.buffer_offset, p.desired_data_transfer_length) for p in asked]  # type: ignore[attr-defined]
        assert spans == [(0, 512, 2048), (1, 2560, 2048), (2, 4608, 2048)]
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.05):
                await initiator.receive()
        for pdu in asked:
            assert isinstance(pdu, ReadyToTransfer)
            await initiator.answer_r2t(pdu, data)
        answer = await initiator.finish(tag, write=data)
        assert answer.status == 0
        assert target.luns[0].disk.read(0, 10240) == data


async def test_unsolicited_data() -> None:
    keys = {"ImmediateData": "No", "FirstBurstLength": "1024"}
    async with (
        TargetServer([make_target()]).running() as portal,
        logged_in(portal, IQN, **keys) as initiator,
    ):
        for last, code in ((1024, None), (600, (0xB, 0x0C, 0x0D))):
            tag = await initiator.start(write_10(0, 4), write=PATTERN[:2048], final=False)
            for number, (offset, end) in enumerate(((0, 512), (512, last))):
                await initiator.send(
                    DataOut(
                        initiator_task_tag=tag,
                        final=end == last,
                        data_sn=number,
                        buffer_offset=offset,
                        data=PATTERN[offset:end],
                    )
                )
            answer = await initiator.finish(tag, write=PATTERN)
            assert (answer.code if answer.status else None) == code


async def test_unsolicited_data_that_was_not_agreed() -> None:
    async with (
        TargetServer([make_target()]).running() as portal,
        logged_in(portal, IQN, InitialR2T="Yes", ImmediateData="No") as initiator,
    ):
        initiator.immediate = True
        answer = await initiator.execute(write_10(0, 1), write=bytes(512))
        assert answer.code == (0xB, 0x0C, 0x0C)


@pytest.mark.parametrize("collapse", [True, False])
async def test_data_in_keeps_to_the_initiators_limits(collapse: bool) -> None:
    target = make_target(phase_collapse=collapse)
    target.luns[0].disk.write(0, PATTERN[:8192])
    keys = {"MaxRecvDataSegmentLength": "1536", "MaxBurstLength": "4096", "FirstBurstLength": "512"}
    async with (
        TargetServer([target]).running() as portal,
        logged_in(portal, IQN, **keys) as initiator,
    ):
        answer = await initiator.execute(read_10(0, 16), read=8192)
        data = [pdu for pdu in answer.pdus if isinstance(pdu, DataIn)]
        assert [len(pdu.data) for pdu in data] == [1536, 1536, 1024, 1536, 1536, 1024]
        assert [pdu.final for pdu in data] == [False, False, True] * 2
        assert [pdu.data_sn for pdu in data] == list(range(6))
        assert data[-1].status_present is collapse
        assert len(answer.pdus) == 6 + (not collapse)
        assert answer.data == PATTERN[:8192]


@pytest.mark.parametrize(
    ("expected", "data", "overflow", "underflow"),
    [(1024, 1024, 0, 0), (4096, 1024, 0, 3072), (512, 512, 512, 0)],
)
async def test_residuals_of_a_read(expected: int, data: int, overflow: int, underflow: int) -> None:
    async with (
        TargetServer([make_target()]).running() as portal,
        logged_in(portal, IQN) as initiator,
    ):
        answer = await initiator.execute(read_10(0, 2), read=expected)
        assert (len(answer.data), answer.overflow, answer.underflow) == (data, overflow, underflow)


async def test_residuals_of_a_write() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        longer = await initiator.execute(write_10(0, 1), write=b"a" * 1024)
        assert (longer.status, longer.overflow, longer.underflow) == (0, 0, 512)
        shorter = await initiator.execute(write_10(4, 3), write=b"b" * 512)
        assert (shorter.status, shorter.overflow, shorter.underflow) == (0, 1024, 0)
        assert target.luns[0].disk.read(0, 3072) == (
            b"a" * 512 + bytes(3 * 512) + b"b" * 512 + bytes(512)
        )
        failed = await initiator.execute(b"\xc1", read=100)
        assert (failed.code, failed.underflow) == ((5, 0x20, 0), 100)


async def test_a_huge_write_allocates_nothing() -> None:
    async with (
        TargetServer([make_target()]).running() as portal,
        logged_in(portal, IQN) as initiator,
    ):
        cdb = b"\x8a" + bytes(9) + b"\xff\xff\xff\xff\0\0"
        tag = await initiator.start(cdb, write=b"x" * 512, expected=0xFFFFFFFF)
        assert (await initiator.finish(tag)).code == (5, 0x24, 0)


async def test_luns_are_apart() -> None:
    target = Target(IQN, luns={0: RamDisk(SIZE), 300: RamDisk(SIZE, block_size=4096)})
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        luns = await initiator.execute(b"\xa0" + bytes(7) + b"\1\0\0\0", read=256)
        assert luns.data[8:] == bytes(8) + b"\x41\x2c" + bytes(6)
        assert (await initiator.execute(TEST_UNIT_READY, lun=7)).code == (5, 0x25, 0)


async def test_two_targets_may_share_a_unit() -> None:
    unit = LogicalUnit(RamDisk(SIZE))
    targets = [Target(f"iqn.2024-01.example:path{i}", luns={0: unit}) for i in range(2)]
    async with (
        TargetServer(targets).running() as portal,
        logged_in(portal, targets[0].name) as one,
        logged_in(portal, targets[1].name) as two,
    ):
        await one.execute(write_10(0, 1), write=b"s" * 512)
        assert (await two.execute(read_10(0, 1), read=512)).data == b"s" * 512
        assert await one.manage(5) == 0
        assert (await two.execute(TEST_UNIT_READY)).code == (6, 0x29, 3)
