# SPDX-License-Identifier: Apache-2.0
"""A session that lost its connection and is to be there again, and then to end well."""

from __future__ import annotations

import anyio

from pyscsi_init import Session
from pyscsi_init.session import SessionState
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget


async def comes_back(target: ScriptedTarget, session: Session, **keys: str) -> ScriptedConnection:
    """The next connection, in full feature phase at both ends."""
    peer = await target.log_in(**keys)
    await anyio.sleep(0.01)
    assert session.state is SessionState.Q3_LOGGED_IN
    return peer


async def ends_well(session: Session, peer: ScriptedConnection) -> None:
    """A logout that is answered."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(peer.log_out)
        await session.log_out()
