# SPDX-License-Identifier: Apache-2.0
"""What becomes of a fence when the power of a real target fails: LIO keeps it, tgt does not.

Whoever took the unit over is away while the target comes back, and the node that lost it is there
first: where the target has kept the key, that node is fenced off.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Fencing, Settings
from pyscsi_init.device import node_key
from pyscsi_init.errors import Fenced, HeldByAnother
from tests.support.lio import LioServer
from tests.support.logs import ExpectLogs
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.anyio, pytest.mark.root, pytest.mark.one_loop]

MEBI = 1 << 20
FAR, BLOCK = 1 << 20, 512
WAIT = Settings(recovery_timeout=None, default_time2wait=0)
A_NAME, B_NAME = "iqn.2026-11.example.host:a", "iqn.2026-11.example.host:b"
A_KEY, B_KEY = node_key(A_NAME), node_key(B_NAME)
ISIDS = {A_NAME: bytes.fromhex("800102030405"), B_NAME: bytes.fromhex("80010203040b")}
"""As volumes have them, whose node finds its registration again."""


@pytest.fixture
def lio() -> Iterator[LioServer]:
    with LioServer(keeps_reservations=True) as server:
        yield server


def opened(url: str, node: str, **fencing: Any) -> Any:
    return pyscsi_init.open_lun(
        url, initiator_name=node, isid=ISIDS[node], settings=WAIT, fencing=Fencing(**fencing)
    )


async def keys(unit: Any) -> set[int]:
    return set((await unit.reservations.read_keys()).keys)


async def test_lio_keeps_it(lio: LioServer, tmp_path: Path, expect_logs: ExpectLogs) -> None:
    expect_logs("was taken over", logger="pyscsi_init.session")
    tid = lio.new_disk(16 * MEBI, backend="file", file=tmp_path / "disk")
    for name in (A_NAME, B_NAME):
        lio.allow(tid, name, 0)
    with lio.proxy() as proxy, anyio.fail_after(120):
        url = f"iscsi://{proxy.portal}/{lio.targets[tid]}/0"
        async with opened(url, A_NAME) as a:
            can = await a.reservations.report_capabilities()
            assert (can.aptpl, can.aptpl_active) == (True, True)
            await a.write(FAR, b"1" * BLOCK)
            await anyio.to_thread.run_sync(lio.restart)
            await a.write(FAR, b"2" * BLOCK)
            assert await keys(a) == {A_KEY}
            assert a.fence.held
            a.keep_fence()
        # The node is dead, and the target was without power meanwhile.
        await anyio.to_thread.run_sync(lio.restart)
        with pytest.raises(HeldByAnother):
            async with opened(url, B_NAME):
                pass
        async with opened(url, A_NAME) as a:
            await a.write(FAR, b"3" * BLOCK)
            async with opened(url, B_NAME, take_over=True) as b:
                assert await keys(b) == {B_KEY}
                await b.write(FAR, b"4" * BLOCK)
                b.keep_fence()
            await anyio.to_thread.run_sync(lio.restart)
            with pytest.raises(Fenced):
                await a.write(FAR, b"5" * BLOCK)
        async with opened(url, B_NAME) as b:
            assert await b.read(FAR, 1) == b"4"


@pytest.mark.tgt
async def test_tgt_does_not(tmp_path: Path) -> None:
    """It does not say that it could, so it is not asked; a restart is found out by its count."""
    with TgtServer() as tgt, anyio.fail_after(120):
        tid = tgt.new_target("iqn.2026-11.example:forgetful")
        tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
        async with opened(tgt.url(tid, 1), A_NAME) as a:
            assert not (await a.reservations.report_capabilities()).aptpl
            assert not a.fence.persists
            assert a.fence.refuses_to_persist is None
            await anyio.to_thread.run_sync(tgt.restart)
            await a.write(FAR, b"2" * BLOCK)
            assert await keys(a) == {A_KEY}
