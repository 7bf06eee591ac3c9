# SPDX-License-Identifier: Apache-2.0
"""Open an iSNS client, and the one question that most callers have."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio
import anyio.to_thread

from ...errors import IscsiError, IsnsRejected, IsnsSourceRefused
from ...names import Portal, check_iscsi_name
from ...transport.initiator_name import host_initiator_name
from ...transport.network import OWN, Network
from ..targets import DiscoveredTarget
from .client import IsnsClient, parse_server
from .machine import IsnsMachine, IsnsSettings

LEAVING_TIMEOUT = 5.0
"""Seconds that a deregistration may take on the way out."""


@contextlib.asynccontextmanager
async def open_isns(
    server: Portal | str,
    *,
    initiator_name: str | None = None,
    settings: IsnsSettings | None = None,
    network: Network = OWN,
) -> AsyncIterator[IsnsClient]:
    """A client of an iSNS server; what it registered is deregistered when the block ends.

    ``server`` is ``host``, ``host:port`` (3205 by default) or ``[v6]:port``, to be reached in
    ``network``. Nothing is sent until something is asked.

    Raises:
        InvalidUrl: the server cannot be read.
        InvalidName: the initiator name cannot be.

    Cancellation: what was registered is deregistered still, within LEAVING_TIMEOUT seconds.
    """
    where = parse_server(server)
    if initiator_name is None:
        initiator_name = await anyio.to_thread.run_sync(host_initiator_name)
    machine = IsnsMachine(
        settings or IsnsSettings(), name=check_iscsi_name(initiator_name), server=where.address
    )
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        client = IsnsClient(machine, where, tasks, network)
        tasks.start_soon(client.run)
        try:
            yield client
        except BaseException as error:
            # The block's own error shall leave as itself, not in a group.
            failure = error
        with anyio.move_on_after(LEAVING_TIMEOUT, shield=True), contextlib.suppress(IscsiError):
            await client.deregister()
        client.stop()
    if failure is not None:
        raise failure


async def discover_isns(
    server: Portal | str,
    *,
    initiator_name: str | None = None,
    settings: IsnsSettings | None = None,
    network: Network = OWN,
) -> list[DiscoveredTarget]:
    """Ask an iSNS server for the targets that are for us (RFC 4171 5.6.5.2).

    What a server shows depends on the discovery domains of the initiator name; many show nothing
    to a name that is not registered. So where nothing is shown and the name is not registered it
    is, for the length of the question.

    Raises:
        InvalidUrl, InvalidName: as :func:`open_isns`.
        ConnectError, DiscoveryTimeout, ConnectionLost: no answer.
        IsnsRejected: the server refused; the subclass says why.
        ProtocolError: what answers is no iSNS server.

    Cancellation: nothing stays registered.
    """
    async with open_isns(
        server, initiator_name=initiator_name, settings=settings, network=network
    ) as client:
        refused: IsnsSourceRefused | None = None
        found: list[DiscoveredTarget] = []
        try:
            found = await client.targets()
        except IsnsSourceRefused as error:
            refused = error
        if found or await client.registered_entity() is not None:
            return found
        try:
            await client.register()
        except IsnsRejected:
            if refused is None:
                return found  # it answered before, and that is what it had to say
            raise
        return await client.targets()
