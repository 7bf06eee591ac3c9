# SPDX-License-Identifier: Apache-2.0
"""Fencing between two sessions on LIO, which has all of the commands and keeps to I_T nexuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Fencing, Settings
from pyscsi_init.device import node_key
from pyscsi_init.errors import Fenced, HeldByAnother
from tests.support.lio import LioServer
from tests.support.logs import ExpectLogs

pytestmark = [pytest.mark.anyio, pytest.mark.root, pytest.mark.one_loop]

MEBI = 1 << 20
FAR, BLOCK = 1 << 20, 512
WAIT = Settings(recovery_timeout=None, default_time2wait=0)
A_NAME, B_NAME = "iqn.2026-11.example.host:a", "iqn.2026-11.example.host:b"
A_KEY, B_KEY = node_key(A_NAME), node_key(B_NAME)
AUTO, TAKE_OVER = Fencing(), Fencing(take_over=True)


@pytest.fixture
def lio() -> Iterator[LioServer]:
    with LioServer() as server:
        yield server


async def test_fencing_on_lio(lio: LioServer, expect_logs: ExpectLogs) -> None:
    expect_logs("was taken over", logger="pyscsi_init.session")
    name = lio.targets[lio.new_disk(16 * MEBI)]
    with lio.proxy() as first, lio.proxy() as second, anyio.fail_after(100):

        def opened(proxy: Any, node: str, fencing: Fencing, **kw: Any) -> Any:
            url = f"iscsi://{proxy.portal}/{name}/0"
            return pyscsi_init.open_lun(
                url, initiator_name=node, settings=WAIT, fencing=fencing, **kw
            )

        isid = bytes.fromhex("800102030405")
        async with opened(first, A_NAME, AUTO, isid=isid) as a:
            await a.write(FAR, b"1" * BLOCK)
            first.cut()
            await a.write(FAR, b"2" * BLOCK)
            assert (await a.reservations.read_keys()).keys == (A_KEY,)
            with pytest.raises(HeldByAnother) as refused:
                async with opened(second, B_NAME, AUTO):
                    pass
            assert refused.value.key == A_KEY
            assert refused.value.ports[0].startswith(f"{A_NAME},i,0x")
            assert (await a.reservations.read_keys()).keys == (A_KEY,)
            a.keep_fence()
        # The node is dead. It comes back with its stored ISID; LIO shuts other ones out.
        with pytest.raises(HeldByAnother, match="dead session of this node"):
            async with opened(first, A_NAME, AUTO, isid=bytes.fromhex("40aabbccddee")):
                pass
        async with opened(first, A_NAME, AUTO, isid=isid) as a:
            await a.write(FAR, b"3" * BLOCK)
            assert (await a.reservations.read_keys()).keys == (A_KEY,)
            a.give_back_all()
        async with opened(first, A_NAME, AUTO) as a:
            assert (await a.reservations.read_keys()).keys == (A_KEY,)
            await a.write(FAR, b"4" * BLOCK)
            async with opened(second, B_NAME, TAKE_OVER) as b:
                assert (await b.reservations.read_keys()).keys == (B_KEY,)
                await b.write(FAR, b"5" * BLOCK)
                first.cut()
                with pytest.raises(Fenced):
                    await a.write(FAR, b"6" * BLOCK)
                assert await b.read(FAR, 1) == b"5"
        async with opened(first, A_NAME, AUTO) as a:
            assert await a.read(FAR, 1) == b"5"
            await a.write(FAR, b"7" * BLOCK)
