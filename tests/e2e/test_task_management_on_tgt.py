# SPDX-License-Identifier: Apache-2.0
"""Task management and a bidirectional command against a real tgt, on both event loops."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import pyscsi_init
from pyscsi_init import Session, Settings
from pyscsi_init.errors import (
    IllegalRequest,
    LocalProtocolError,
    TaskManagementFailed,
    UnitAttention,
)
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.tgt, pytest.mark.anyio]

NAME = "iqn.2026-11.example.host:tasks"
DATA = 32768
READ, WRITE, XDWRITEREAD = (bytes((code, *bytes(7), 64, 0)) for code in (0x28, 0x2A, 0x53))
FAST = Settings(iscsi_protocol_level=2, task_reporting=("FastAbort", "ResponseFence", "RFC3720"))
OFFERS = [Settings(), Settings(initial_r2t=True, immediate_data=False), FAST]


@asynccontextmanager
async def on_tgt(path: Path, settings: Settings) -> AsyncIterator[Session]:
    with TgtServer() as server:
        tid = server.new_target("iqn.2026-11.example:tasks")
        server.add_lun(tid, 1, path, size_bytes=1 << 20)
        url = pyscsi_init.parse_url(server.url(tid, 1))
        async with pyscsi_init.open_session(
            url.portals, url.target, settings=settings, initiator_name=NAME
        ) as session:
            yield session


async def settled(session: Session) -> None:
    """Take the unit attentions that a login or a reset leaves."""
    for _ in range(8):
        try:
            await session.execute(1, bytes(6))
        except UnitAttention:
            continue
        return


@pytest.mark.parametrize("settings", OFFERS, ids=["unasked", "asked", "all offered"])
async def test_functions_and_both_ways(tmp_path: Path, settings: Settings) -> None:
    """Functions are carried out, but for one that tgt does not have; it has no level 2; and a
    bidirectional command, whose CDB it does not know, leaves the stream in step."""
    async with on_tgt(tmp_path / "disk", settings) as session:
        await settled(session)
        data = os.urandom(DATA)
        await session.execute(1, WRITE, data_out=data)
        await session.abort_task_set(1)
        with pytest.raises(TaskManagementFailed) as refused:
            await session.clear_task_set(1)
        assert refused.value.response == 5
        await session.logical_unit_reset(1)
        await settled(session)
        assert session.parameters.iscsi_protocol_level < 2
        with pytest.raises(LocalProtocolError):
            await session.query_task_set(1)
        with pytest.raises(IllegalRequest) as caught:
            await session.execute(1, XDWRITEREAD, data_out=bytes(DATA), data_in_length=DATA)
        # tgt asks for all data and sends all, as zeros, before it says that it knows no such CDB
        assert (caught.value.asc, caught.value.result.data) == (0x20, bytes(DATA))
        assert (await session.execute(1, READ, data_in_length=DATA)).data == data
        assert session.statistics.losses == 0
