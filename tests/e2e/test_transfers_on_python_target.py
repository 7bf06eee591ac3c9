# SPDX-License-Identifier: Apache-2.0
"""Every way to move data: unsolicited or asked for, in tiny bursts, through a narrow window."""

from __future__ import annotations

import os
from typing import Any

import anyio
import pytest

from pyscsi_init import LogicalUnit, Settings
from pyscsi_init.testing import RamDisk
from tests.support.python_target import MEBI, PATIENCE, make_target, opened

pytestmark = pytest.mark.anyio


async def round_trip(lun: LogicalUnit, length: int = 40_001, offset: int = 12_345) -> None:
    data = os.urandom(length)
    with anyio.fail_after(PATIENCE):
        await lun.write(offset, data)
        await lun.flush()
        assert await lun.read(offset, length) == data


@pytest.mark.parametrize("burst", ["tiny", "small", "large"])
@pytest.mark.parametrize("immediate_data", [True, False])
@pytest.mark.parametrize("initial_r2t", [True, False])
async def test_every_way_to_send_data(initial_r2t: bool, immediate_data: bool, burst: str) -> None:
    lengths: dict[str, dict[str, Any]] = {
        "tiny": {
            "max_recv_data_segment_length": 512,
            "max_burst_length": 512,
            "first_burst_length": 512,
            "max_outstanding_r2t": 1,
        },
        "small": {
            "max_recv_data_segment_length": 516,
            "max_burst_length": 1536,
            "first_burst_length": 1032,
            "max_outstanding_r2t": 5,
        },
        "large": {},
    }
    target = make_target(
        initial_r2t=initial_r2t,
        immediate_data=immediate_data,
        command_window=2 if burst == "small" else 128,
        phase_collapse=burst != "small",
        **lengths[burst],
    )
    settings = Settings(
        initial_r2t=initial_r2t,
        immediate_data=immediate_data,
        max_recv_data_segment_length=512 if burst == "tiny" else 262144,
        max_transfer_bytes=65536,
        header_digest=("CRC32C",) if burst == "small" else ("None",),
        data_digest=("CRC32C",) if burst == "small" else ("None",),
        recovery_timeout=0,
    )
    async with opened(target, settings) as lun:
        keys = lun.session.parameters
        assert keys.initial_r2t is initial_r2t
        assert keys.immediate_data is immediate_data
        if burst == "small":
            assert keys.max_outstanding_r2t == 5
        for length in (1, 511, 512, 513, 1536, 4096, 20_000, 70_001):
            await round_trip(lun, length)
        async with anyio.create_task_group() as group:
            for number in range(24):
                group.start_soon(round_trip, lun, 5000, MEBI + number * 5120 + 13)
        assert lun.session.statistics.losses == 0
        assert target.counters.rejects == 0


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("attentions", [True, False])
async def test_a_small_command_window(window: int, attentions: bool) -> None:
    target = make_target(command_window=window, unit_attention_on_login=attentions)
    async with opened(target) as lun:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for number in range(40):
                    group.start_soon(round_trip, lun, 3000, number * 3072 + 7)
        target.drop_connections()
        await round_trip(lun)


@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("thin", [True, False])
async def test_block_sizes_and_discard(block_size: int, thin: bool) -> None:
    disk = RamDisk(16 * MEBI, block_size=block_size, thin=thin)
    async with opened(make_target(disk)) as lun:
        assert (lun.block_size, lun.can_discard) == (block_size, thin)
        for length in (1, block_size - 1, block_size + 1, 100_003):
            await round_trip(lun, length)
        await lun.write(MEBI, b"x" * MEBI)
        if thin:
            await lun.discard(MEBI + 100, MEBI - 200)
            runs = disk.extents(MEBI // block_size, MEBI // block_size)
            assert sum(count for _, count, allocated in runs if allocated) == 2
            assert lun.discard_zeroes
            data = await lun.read(MEBI, MEBI)
            assert data[block_size:-block_size] == bytes(MEBI - 2 * block_size)
            assert data[:100] == data[-100:] == b"x" * 100
        await lun.write_zeroes(MEBI, MEBI)
        assert disk.read(MEBI, MEBI) == bytes(MEBI)


async def test_a_target_that_answers_nothing() -> None:
    """Keys without an answer: the defaults of RFC 7143 clause 13 hold, on both sides."""
    target = make_target(
        max_recv_data_segment_length=None,
        max_burst_length=262144,
        first_burst_length=65536,
        max_outstanding_r2t=1,
        answers=dict.fromkeys(("MaxBurstLength", "FirstBurstLength", "MaxOutstandingR2T")),
    )
    async with opened(target, Settings(recovery_timeout=0)) as lun:
        keys = lun.session.parameters
        assert keys.target_max_recv_data_segment_length == 8192
        assert (keys.max_burst_length, keys.first_burst_length) == (262144, 65536)
        assert keys.max_outstanding_r2t == 1
        await round_trip(lun, 600_003)
