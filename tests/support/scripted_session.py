# SPDX-License-Identifier: Apache-2.0
"""A session of the library and a scripted target at its other end, logged in, in one line.

    async with logged_in(virtual=True, FirstBurstLength="4096") as (session, peer):
        command = await peer.expect(ScsiCommand)

With ``virtual`` there is a socket pair between them, and the test carries the marker
``virtual_clock``: hours pass in no time. Without it there is TCP on the loopback interface.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

import pyscsi_init
from pyscsi_init import Session, Settings
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget

INITIATOR = "iqn.2026-11.example.host:one"
QUIET = Settings(noop_interval=0)
"""No ping unless the target asks for a sign of life."""


@asynccontextmanager
async def session_with(
    target: ScriptedTarget,
    *,
    virtual: bool = False,
    settings: Settings = QUIET,
    log_out: bool = True,
    **keys: str,
) -> AsyncIterator[tuple[Session, ScriptedConnection]]:
    """A session with a scripted target, and the target's end of it in full feature phase.

    ``keys`` are the target's answers that differ. After the block the logout is answered, unless
    ``log_out`` is False or the connection has ended by then.
    """
    how: dict[str, Any] = {"connector": target.connect} if virtual else {}
    found: list[ScriptedConnection] = []

    async def answer_login() -> None:
        found.append(await target.log_in(**keys))

    async def answer_logout() -> None:
        if not found[0].ended:
            await found[0].log_out()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer_login)
        async with pyscsi_init.open_session(
            [target.portal], target.name, settings=settings, initiator_name=INITIATOR, **how
        ) as session:
            yield session, found[0]
            if log_out:
                tasks.start_soon(answer_logout)


@asynccontextmanager
async def logged_in(
    *,
    virtual: bool = False,
    settings: Settings = QUIET,
    allowed: tuple[str, ...] = (),
    log_out: bool = True,
    **keys: str,
) -> AsyncIterator[tuple[Session, ScriptedConnection]]:
    """As :func:`session_with`, with a target of its own."""
    async with (
        ScriptedTarget(allowed=allowed).running() as target,
        session_with(target, virtual=virtual, settings=settings, log_out=log_out, **keys) as (
            session,
            peer,
        ),
    ):
        yield session, peer
