# SPDX-License-Identifier: Apache-2.0
"""One scripted workload, and the connection cut at every single place of it.

The target counts the PDUs of full feature phase. For every N up to the length of the workload the
connection is closed once: after the target has received N of them (the last one is not acted on),
and, in runs of their own, after it has sent N. After each run the whole disk is compared with a
model in which no connection ever died. In further runs every connection dies after a few PDUs, so
that recoveries are cut as well. Where writes reach the medium late, those of a connection that was
cut land after the next login.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from pyscsi_init import LogicalUnit, Settings, open_lun
from pyscsi_init.testing import RamDisk, Session, Target, TargetServer
from pyscsi_init.transport import recovery
from tests.support import totals
from tests.support.python_target import INITIATOR, PATIENCE, make_target, url_of

pytestmark = pytest.mark.anyio

SIZE = 256 * 1024
SETTINGS = Settings(
    recovery_timeout=None,
    default_time2wait=0,
    max_recv_data_segment_length=2048,
    max_transfer_bytes=16384,
    header_digest=("CRC32C",),
    data_digest=("CRC32C",),
)


def slow_and_careful_target(block_size: int) -> Target:
    """Small bursts, so that one write is command, data, R2T, data, R2T, data, status."""
    return make_target(
        RamDisk(SIZE, block_size=block_size, thin=True, write_cache=True),
        max_recv_data_segment_length=1024,
        first_burst_length=2048,
        max_burst_length=4096,
        max_outstanding_r2t=2,
        phase_collapse=False,
        command_window=4,
    )


class Model:
    """What the disk must hold."""

    def __init__(self, lun: LogicalUnit, seed: int) -> None:
        self._lun = lun
        self._choice = random.Random(seed)
        self.content = bytearray(SIZE)
        self.block_size = lun.block_size

    async def write(self, offset: int, length: int, *, fua: bool = False) -> None:
        data = self._choice.randbytes(length)
        await self._lun.write(offset, data, fua=fua)
        self.content[offset : offset + length] = data

    async def read(self, offset: int, length: int) -> None:
        assert await self._lun.read(offset, length) == self.content[offset : offset + length]

    async def zero(self, offset: int, length: int) -> None:
        await self._lun.write_zeroes(offset, length)
        self.content[offset : offset + length] = bytes(length)

    async def discard(self, offset: int, length: int) -> None:
        """Aligned here, and the target promises zeros: so the content is known."""
        await self._lun.discard(offset, length)
        self.content[offset : offset + length] = bytes(length)

    async def together(self, *steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """At the same time, on ranges that do not touch each other."""
        async with anyio.create_task_group() as group:
            for step in steps:
                group.start_soon(step)


async def workload(lun: LogicalUnit) -> bytearray:
    """Every operation, aligned and not, one at a time and several at once."""
    model = Model(lun, seed=1)
    await model.write(0, 12_288)
    await model.read(0, 12_288)
    await model.write(4096 * 10 + 7, 5000)
    await lun.flush()
    await model.read(4096 * 10, 6000)
    await model.write(513, 100)
    await model.together(
        lambda: model.write(65_536, 9000),
        lambda: model.write(131_072 + 5, 3),
        lambda: model.read(513, 100),
        lambda: model.write(196_608, 4096, fua=True),
        lambda: model.read(0, 500),
        lun.flush,
    )
    # Over what was just written: an old write that comes late would be seen.
    await model.together(
        lambda: model.write(65_536, 9000),
        lambda: model.zero(131_072, 20_000),
        lambda: model.discard(4096, 8192),
        lambda: model.write(196_608, 4096),
    )
    await model.read(60_000, 20_000)
    await model.write(65_536, 512)
    await model.zero(65_536 + 100, 1000)
    await lun.flush()
    await model.read(60_000, 20_000)
    return model.content


@asynccontextmanager
async def prepared(target: Target) -> AsyncIterator[LogicalUnit]:
    async with (
        TargetServer([target]).running() as portal,
        open_lun(url_of(portal.address), settings=SETTINGS, initiator_name=INITIATOR) as lun,
    ):
        yield lun


async def run_once(block_size: int, prepare: Callable[[Target], None]) -> LogicalUnit:
    """The workload with a fault; everything is compared with the model at the end."""
    target = slow_and_careful_target(block_size)
    async with prepared(target) as lun:
        prepare(target)
        with anyio.fail_after(PATIENCE):
            expected = await workload(lun)
            await lun.flush()
            assert await lun.read(0, SIZE) == expected
        assert target.luns[0].disk.read(0, SIZE) == expected
        return lun


async def count_pdus(block_size: int, attribute: str) -> tuple[int, int]:
    """How many PDUs go before the workload, and how many are its own when nothing is cut."""
    target = slow_and_careful_target(block_size)
    async with prepared(target) as lun:
        (session,) = target.sessions
        before: int = getattr(session.connection, attribute)
        await workload(lun)
        assert lun.session.statistics.losses == 0
        return before, getattr(session.connection, attribute) - before


async def every_cut(attribute: str, block_size: int, landing: float, step: int = 1) -> int:
    """One run for each place; ``landing`` is how much later than their data writes are done."""
    before, count = await count_pdus(block_size, attribute.removeprefix("drop_after_"))
    assert count > 70
    for number in range(1, count + 1, step):

        def cut(target: Target, number: int = number) -> None:
            if landing:
                target.faults.delay_writes(landing)
            setattr(target.faults, attribute, before + number)

        try:
            lun = await run_once(block_size, cut)
        except BaseException as error:
            error.add_note(f"{attribute}: PDU {number} of {count}")
            raise
        assert lun.session.statistics.losses == 1, number
        totals.count("connections cut after a PDU of a workload")
    return len(range(1, count + 1, step))


@pytest.mark.parametrize("attribute", ["drop_after_received", "drop_after_sent"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_every_cut(attribute: str) -> None:
    assert await every_cut(attribute, 512, 0.0) > 70


@pytest.mark.parametrize("attribute", ["drop_after_received", "drop_after_sent"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_every_third_cut_where_writes_land_late(attribute: str) -> None:
    assert await every_cut(attribute, 4096, 0.002, step=3) > 20


@pytest.mark.parametrize("attribute", ["drop_after_received", "drop_after_sent"])
@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_some_cuts_on_trio(attribute: str) -> None:
    assert await every_cut(attribute, 512, 0.002, step=7) > 10


@pytest.mark.soak
@pytest.mark.parametrize("attribute", ["drop_after_received", "drop_after_sent"])
@pytest.mark.parametrize("block_size", [512, 4096])
@pytest.mark.parametrize("landing", [0.0, 0.002, 0.02])
async def test_every_cut_on_both_loops(attribute: str, block_size: int, landing: float) -> None:
    assert await every_cut(attribute, block_size, landing) > 70


@pytest.mark.parametrize("life", range(1, 25))
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_cuts_of_the_recovery_itself(life: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the first twelve connections dies after a few PDUs, wherever it is then."""
    monkeypatch.setattr(recovery, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(recovery, "LONGEST_DELAY", 0.001)
    deaths = 0

    def prepare(target: Target) -> None:
        def mortal(session: Session, _: object) -> None:
            nonlocal deaths
            if session.connection.received >= life and deaths < 12:
                deaths += 1
                session.drop()

        target.faults.on_receive = mortal

    lun = await run_once(512, prepare)
    assert lun.session.statistics.losses == deaths > 3
    totals.count("connections cut after a PDU of a workload", deaths)
