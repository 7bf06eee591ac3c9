# SPDX-License-Identifier: Apache-2.0
"""A network that delays, splits, merges, stalls and cuts both directions at random, and data that
is right all the same.

Most cuts are made under the library, where a connection is back within milliseconds; some under a
volume with its loop device, where fio verifies. How many there were is told at the end of the run.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from pyscsi_init import LogicalUnit, Settings, open_lun
from pyscsi_init.testing import RamDisk, TargetServer
from pyscsi_init.transport import recovery
from tests.e2e.conftest import GIBI, IQN, Volumes
from tests.support import totals
from tests.support.chaos_proxy import ChaosProxy, Weather
from tests.support.fio import fio_verify
from tests.support.python_target import INITIATOR, MEBI, make_target, url_of
from tests.support.tgt import TgtServer

SEED = 20_260_417
SIZE = MEBI
BRIEF_CUTS = 60
SOAK_CUTS = 4000
"""For each of the library's runs; there are three."""

LIVES = Weather(
    split=0.4, merge=0.2, delay=0.0005, stall=0.01, stall_s=0.005, cut_bytes=(1, 400_000)
)
"""A login takes two thousand bytes, the comparison of the unit behind it a hundred thousand: some
connections die before they are back, and most are of use for a while."""

ON_A_VOLUME = Weather(split=0.3, merge=0.2, delay=0.001, stall=0.01, stall_s=0.02, cut=0.002)

SETTINGS = Settings(
    recovery_timeout=None,
    default_time2wait=0,
    max_recv_data_segment_length=8192,
    max_transfer_bytes=16384,
    queue_depth=8,
)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(recovery, "LONGEST_DELAY", 0.004)


class Verifier:
    """Writes and reads at random on parts of its own, several at once, and knows what is there."""

    def __init__(self, lun: LogicalUnit, seed: int, first: int, end: int) -> None:
        self._lun = lun
        self._choice = random.Random(seed)
        self._first = first
        self._content = bytearray(end - first)
        self.operations = 0

    async def begin(self) -> None:
        for at in range(0, len(self._content), 16384):
            await self._write(at, min(16384, len(self._content) - at))

    async def run(self, over: anyio.Event) -> None:
        choice, size = self._choice, len(self._content)
        while not over.is_set():
            length = choice.choice((1, 512, 4096, 10_000, 16_384))
            at = choice.randrange(size - length)
            kind = choice.random()
            if kind < 0.5:
                await self._write(at, length)
            elif kind < 0.95:
                await self._check(at, length)
            else:
                await self._lun.flush()
            self.operations += 1

    async def end(self) -> None:
        for at in range(0, len(self._content), 16384):
            await self._check(at, min(16384, len(self._content) - at))

    async def _write(self, at: int, length: int) -> None:
        data = self._choice.randbytes(length)
        await self._lun.write(self._first + at, data, fua=self._choice.random() < 0.1)
        self._content[at : at + length] = data

    async def _check(self, at: int, length: int) -> None:
        read = await self._lun.read(self._first + at, length)
        assert read == self._content[at : at + length], f"wrong data at {self._first + at}"


async def cut_again_and_again(
    url: str, proxy: ChaosProxy, seed: int, cuts: int, **login: Any
) -> None:
    """Until so many connections were cut; then everything is compared, in fine weather."""
    proxy.weather = Weather(split=0, merge=0, delay=0, stall=0)
    async with open_lun(url, settings=replace(SETTINGS, **login), initiator_name=INITIATOR) as lun:
        share = SIZE // 4
        verifiers = [Verifier(lun, seed + n, n * share, (n + 1) * share) for n in range(4)]
        for verifier in verifiers:
            await verifier.begin()
        proxy.weather = LIVES
        over = anyio.Event()
        async with anyio.create_task_group() as group:
            for verifier in verifiers:
                group.start_soon(verifier.run, over)
            while proxy.cuts < cuts:  # noqa: ASYNC110  (another thread counts)
                await anyio.sleep(0.01)
            over.set()
        proxy.weather = Weather(split=0, merge=0, delay=0, stall=0)
        for verifier in verifiers:
            await verifier.end()
        losses = lun.session.statistics.losses
        operations = sum(verifier.operations for verifier in verifiers)
    assert operations > cuts / 10
    # The others died in the login phase, which is an attempt that failed and no loss.
    assert losses > cuts / 10
    totals.count("connections cut under the library", proxy.cuts)
    totals.count("operations verified across cuts", operations)


async def on_python_target(seed: int, cuts: int, **login: Any) -> None:
    disk = RamDisk(SIZE, thin=True, write_cache=True)
    target = make_target(disk, max_recv_data_segment_length=4096, first_burst_length=8192)
    async with TargetServer([target]).running() as portal:
        host, _, port = str(portal.address).rpartition(":")
        with ChaosProxy((host, int(port)), seed, LIVES) as proxy:
            await cut_again_and_again(url_of(proxy.portal), proxy, seed, cuts, **login)


async def on_tgt(directory: Path, seed: int, cuts: int) -> None:
    with TgtServer() as server:
        tid = server.new_target(IQN)
        server.set_param(tid, "DefaultTime2Wait", 0)
        server.add_lun(tid, 1, directory / "disk", size_bytes=16 * MEBI)
        with ChaosProxy((server.address, server.port), seed, LIVES) as proxy:
            url = server.url(tid, 1).replace(server.portal, proxy.portal)
            await cut_again_and_again(url, proxy, seed, cuts)


@pytest.mark.anyio
@pytest.mark.usefixtures("impatient")
async def test_the_library_on_the_python_target() -> None:
    await on_python_target(SEED, BRIEF_CUTS)


@pytest.mark.anyio
@pytest.mark.one_loop
@pytest.mark.usefixtures("impatient")
async def test_with_digests() -> None:
    await on_python_target(SEED + 1, BRIEF_CUTS, header_digest=("CRC32C",), data_digest=("CRC32C",))


@pytest.mark.tgt
@pytest.mark.anyio
@pytest.mark.one_loop
@pytest.mark.usefixtures("impatient")
async def test_the_library_on_tgt(tmp_path: Path) -> None:
    await on_tgt(tmp_path, SEED, BRIEF_CUTS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.anyio
@pytest.mark.usefixtures("impatient")
async def test_thousands_of_cuts_on_the_python_target() -> None:
    await on_python_target(secrets.randbelow(1 << 32), SOAK_CUTS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.tgt
@pytest.mark.anyio
@pytest.mark.one_loop
@pytest.mark.usefixtures("impatient")
async def test_thousands_of_cuts_on_tgt(tmp_path: Path) -> None:
    await on_tgt(tmp_path, secrets.randbelow(1 << 32), SOAK_CUTS)


# -- a volume --------------------------------------------------------------------------------------


@pytest.fixture
def proxied(tgt: TgtServer, tmp_path: Path) -> Iterator[tuple[ChaosProxy, str]]:
    tid = tgt.new_target(IQN)
    tgt.set_param(tid, "DefaultTime2Wait", 0)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=GIBI)
    with ChaosProxy((tgt.address, tgt.port), SEED, ON_A_VOLUME) as proxy:
        yield proxy, tgt.url(tid, 1).replace(tgt.portal, proxy.portal)


def verify_through(volumes: Volumes, proxy: ChaosProxy, url: str, cuts: int) -> None:
    """fio writes and reads back on the loop device until so many connections were cut."""
    proxy.weather = Weather()
    volume = volumes.attach(url, name="v", settings={"default_time2wait": 0})
    proxy.weather = ON_A_VOLUME
    rounds = 0
    while proxy.cuts < cuts:
        fio_verify(volume.loop, size=16 * MEBI, bs="16k", iodepth=16, timeout=600)
        rounds += 1
    proxy.weather = Weather()
    assert volumes.get("v").recoveries > 0
    assert volumes.detach("v").clean
    totals.count("connections cut under fio on a volume", proxy.cuts)
    totals.count("MiB verified by fio across cuts", 16 * rounds)


@pytest.mark.root
@pytest.mark.tgt
def test_a_volume(volumes: Volumes, proxied: tuple[ChaosProxy, str]) -> None:
    verify_through(volumes, *proxied, 3)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.root
@pytest.mark.tgt
def test_a_volume_for_long(volumes: Volumes, proxied: tuple[ChaosProxy, str]) -> None:
    verify_through(volumes, *proxied, 200)
