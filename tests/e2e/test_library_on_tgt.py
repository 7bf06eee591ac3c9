# SPDX-License-Identifier: Apache-2.0
"""The library against a real tgt: what a user would do first, on both event loops."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Chap, Secret, Settings
from pyscsi_init.errors import (
    AuthenticationFailed,
    ConnectError,
    LunNotFound,
    NotABlockDevice,
    ReadOnlyDevice,
    TargetAuthenticationFailed,
    TargetNotFound,
)
from pyscsi_init.scsi import inquiry
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.tgt, pytest.mark.anyio]

IQN = "iqn.2026-11.example:disk"
MEBI = 1 << 20
USER, SECRET = "initiator", "initiator-secret-1"
TARGET_USER, TARGET_SECRET = "target", "target-secret-234"


@pytest.fixture
def tgt() -> Iterator[TgtServer]:
    with TgtServer(ipv6=True) as server:
        yield server


async def round_trip(lun: pyscsi_init.LogicalUnit) -> None:
    """Odd offsets and lengths, larger than any burst; read back, zeroed, flushed."""
    data = os.urandom(3 * MEBI + 777)
    await lun.write(12_345, data)
    await lun.flush()
    assert await lun.read(12_345, len(data)) == data
    await lun.write_zeroes(20_000, 100_000)
    await lun.write(20_500, b"in the middle", fua=True)
    expected = bytearray(data)
    expected[20_000 - 12_345 : 120_000 - 12_345] = bytes(100_000)
    expected[20_500 - 12_345 : 20_513 - 12_345] = b"in the middle"
    assert await lun.read(12_345, len(data)) == expected


@pytest.mark.parametrize("block_size", [512, 4096])
async def test_block_sizes(tgt: TgtServer, tmp_path: Path, block_size: int) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI, block_size=block_size)
    async with pyscsi_init.open_lun(tgt.url(tid, 1)) as lun:
        assert (lun.block_size, lun.size_bytes) == (block_size, 16 * MEBI)
        await round_trip(lun)
        assert len(tgt.sessions(tid)) == 1
    tgt.wait_sessions(0)


@pytest.mark.parametrize("initial_r2t", [True, False])
@pytest.mark.parametrize("immediate_data", [True, False])
@pytest.mark.parametrize("digest", ["None", "CRC32C"])
async def test_every_way_to_send_data(
    tgt: TgtServer, tmp_path: Path, initial_r2t: bool, immediate_data: bool, digest: str
) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
    tgt.allow_digests(tid)
    tgt.set_param(tid, "InitialR2T", "Yes" if initial_r2t else "No")
    tgt.set_param(tid, "ImmediateData", "Yes" if immediate_data else "No")
    settings = Settings(
        initial_r2t=initial_r2t,
        immediate_data=immediate_data,
        header_digest=(digest,),
        data_digest=(digest,),
        first_burst_length=16384,
        max_burst_length=131072,
    )
    async with pyscsi_init.open_lun(tgt.url(tid, 1), settings=settings) as lun:
        keys = lun.session.parameters
        assert keys.initial_r2t is initial_r2t
        assert keys.immediate_data is immediate_data
        assert keys.header_digest is keys.data_digest is (digest == "CRC32C")
        await round_trip(lun)


@pytest.mark.parametrize("mutual", [False, True])
async def test_chap(tgt: TgtServer, tmp_path: Path, mutual: bool) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
    tgt.require_chap(tid, USER, SECRET)
    tgt.require_chap(tid, TARGET_USER, TARGET_SECRET, outgoing=True)
    chap = Chap(
        user=USER,
        secret=Secret(SECRET),
        mutual_user=TARGET_USER if mutual else "",
        mutual_secret=Secret(TARGET_SECRET) if mutual else None,
    )
    async with pyscsi_init.open_lun(tgt.url(tid, 1), chap=chap) as lun:
        await round_trip(lun)


async def test_chap_that_fails_names_the_side(tgt: TgtServer, tmp_path: Path) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
    tgt.require_chap(tid, USER, SECRET)
    tgt.require_chap(tid, TARGET_USER, TARGET_SECRET, outgoing=True)
    url = tgt.url(tid, 1)
    wrong = "wrong-secret-9999"
    with pytest.raises(AuthenticationFailed, match="CHAP"):
        async with pyscsi_init.open_lun(url):
            pass
    with pytest.raises(AuthenticationFailed) as caught:
        async with pyscsi_init.open_lun(url, chap=Chap(user=USER, secret=Secret(wrong))):
            pass
    assert wrong not in str(caught.value)
    with pytest.raises(TargetAuthenticationFailed) as caught_target:
        async with pyscsi_init.open_lun(
            url,
            chap=Chap(user=USER, secret=Secret(SECRET), mutual_secret=Secret(wrong)),
        ):
            pass
    assert wrong not in str(caught_target.value)
    assert SECRET not in str(caught_target.value)


@pytest.mark.parametrize("algorithms", [(7, 5), (8, 7, 6, 5), (5, 8, 7, 6)])
async def test_chap_list_that_tgt_misreads(
    tgt: TgtServer, tmp_path: Path, algorithms: tuple[int, ...]
) -> None:
    """tgt takes 7 from a list and means SHA1 by it; the second try offers MD5 alone."""
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
    tgt.require_chap(tid, USER, SECRET)
    chap = Chap(user=USER, secret=Secret(SECRET), algorithms=algorithms)
    async with pyscsi_init.open_lun(tgt.url(tid, 1), chap=chap) as lun:
        assert len(await lun.read(0, 512)) == 512


async def test_write_protected(tgt: TgtServer, tmp_path: Path) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI, readonly=True)
    async with pyscsi_init.open_lun(tgt.url(tid, 1)) as lun:
        assert lun.read_only
        assert await lun.read(100, 100) == bytes(100)
        with pytest.raises(ReadOnlyDevice):
            await lun.write(0, b"x" * 512)


async def test_ipv6_and_several_portals(tgt: TgtServer, tmp_path: Path) -> None:
    """A portal that refuses is skipped."""
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
    url = f"iscsi://127.0.0.1:1,{tgt.portal6}/{IQN}/1"
    async with pyscsi_init.open_lun(url) as lun:
        assert str(lun.session.portal) == tgt.portal6
        await round_trip(lun)


async def test_redirect(tgt: TgtServer, tmp_path: Path) -> None:
    with TgtServer(address="127.0.0.2") as other:
        tid = other.new_target(IQN)
        other.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
        here = tgt.new_target(IQN)
        tgt.redirect(here, "127.0.0.2", other.port)
        async with pyscsi_init.open_lun(tgt.url(here, 1)) as lun:
            assert str(lun.session.portal) == other.portal
            await round_trip(lun)


async def test_discovery_and_luns(tgt: TgtServer, tmp_path: Path) -> None:
    for number in range(1, 4):
        tid = tgt.new_target(f"{IQN}{number}")
        for lun in range(1, number + 1):
            tgt.add_lun(tid, lun, tmp_path / f"disk{number}{lun}", size_bytes=MEBI)
    found = await pyscsi_init.discover(tgt.portal)
    assert {target.name for target in found} == {f"{IQN}{number}" for number in range(1, 4)}
    assert all(portal.port == tgt.port for target in found for portal in target.portals)
    three = next(target for target in found if target.name.endswith("3"))
    async with pyscsi_init.open_session(three.portals, three.name) as session:
        luns = await session.report_luns()
        assert [pyscsi_init.scsi.decode_lun(lun) for lun in luns] == [0, 1, 2, 3]
        answer = await session.execute(1, inquiry(36), data_in_length=36)
        assert len(answer.data) == 36


@pytest.mark.quirk("Q-16")
async def test_what_cannot_be_opened(tgt: TgtServer, tmp_path: Path) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
    for url, error, text in (
        (f"iscsi://{tgt.portal}/{IQN}x/1", TargetNotFound, "no such target"),
        (f"iscsi://127.0.0.1:1/{IQN}/1", ConnectError, "nothing listens there"),
        (tgt.url(tid, 9), LunNotFound, "LUN 9"),
        (tgt.url(tid, 0), NotABlockDevice, "controller"),
    ):
        with pytest.raises(error, match=text):
            async with pyscsi_init.open_lun(url):
                pass
    tgt.wait_sessions(0)


async def test_a_silent_port_is_given_up(tgt: TgtServer) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as silent:
        port = silent.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(pyscsi_init.errors.LoginTimeout):
            async with pyscsi_init.open_lun(
                f"iscsi://127.0.0.1:{port}/{IQN}/1", settings=Settings(login_timeout=0.3)
            ):
                pass


async def test_growth_is_seen(tgt: TgtServer, tmp_path: Path) -> None:
    """tgt sends no unit attention: the capacity is asked for."""
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
    async with pyscsi_init.open_lun(tgt.url(tid, 1)) as lun:
        sizes: list[int] = []
        lun.size_changed.append(sizes.append)
        tgt.grow(tid, 1, 24 * MEBI)
        assert await lun.refresh_capacity() == 24 * MEBI
        assert sizes == [24 * MEBI]
        await lun.write(20 * MEBI, b"beyond the old end")
        assert await lun.read(20 * MEBI, 18) == b"beyond the old end"


async def test_thin_unit_discards(tgt: TgtServer, tmp_path: Path) -> None:
    tid = tgt.new_target(IQN)
    path = tmp_path / "disk"
    tgt.add_lun(tid, 1, path, size_bytes=64 * MEBI, thin=True)
    async with pyscsi_init.open_lun(tgt.url(tid, 1)) as lun:
        assert lun.can_discard
        await lun.write(0, os.urandom(8 * MEBI))
        await lun.flush()
        before = path.stat().st_blocks
        await lun.discard(0, 8 * MEBI)
        await lun.flush()
        assert path.stat().st_blocks < before
        if lun.discard_zeroes:
            assert await lun.read(0, MEBI) == bytes(MEBI)


@pytest.mark.filterwarnings("default")
def test_blocking_face(tgt: TgtServer, tmp_path: Path) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
    assert [target.name for target in pyscsi_init.blocking.discover(tgt.portal)] == [IQN]
    with pyscsi_init.blocking.open_lun(tgt.url(tid, 1)) as lun:
        lun.write(5, b"blocking")
        lun.flush()
        assert lun.read(0, 16) == bytes(5) + b"blocking" + bytes(3)
