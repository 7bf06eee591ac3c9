# SPDX-License-Identifier: Apache-2.0
"""Logins of which only the operational stage matters, and what data leaves after them."""

from __future__ import annotations

from typing import Any

import anyio

import pyscsi_init
from pyscsi_init import Settings
from pyscsi_init.errors import NegotiationFailed, ProtocolError
from pyscsi_init.pdu import DataOut, ScsiCommand
from pyscsi_init.testing.scripted import ScriptedConnection
from tests.conformance.logging_in import QUIET, WRITE, Outcome, operational, outcome_of


async def negotiated(text: Any, settings: Settings = QUIET, **how: Any) -> Outcome:
    """How a login ends in which our offers are answered with exactly this."""
    return await outcome_of(operational(text), settings=settings, **how)


async def refused(text: str, settings: Settings = QUIET, **how: Any) -> Exception:
    """The error of a login whose answers cannot be; nothing follows them."""
    outcome = await negotiated(text, settings, **how)
    assert len(outcome.requests) == 2
    assert isinstance(outcome.failure, ProtocolError | NegotiationFailed)
    return outcome.failure


async def written(
    session: pyscsi_init.Session, peer: ScriptedConnection, length: int = 16384
) -> tuple[ScsiCommand, int]:
    """A write: its command, and how many bytes of data came with no R2T."""
    async with anyio.create_task_group() as tasks:

        async def write() -> None:
            await session.execute(0, WRITE, data_out=bytes(length))

        tasks.start_soon(write)
        command = await peer.expect(ScsiCommand)
        count = len(command.data)
        final = command.final
        while not final:
            data = await peer.expect(DataOut)
            count += len(data.data)
            final = data.final
        await peer.expect_nothing(2)
        await peer.send(peer.response(command))
    return command, count


def digests(*offer: str) -> Settings:
    """Both digests are offered like this."""
    return Settings(noop_interval=0, header_digest=offer, data_digest=offer)
