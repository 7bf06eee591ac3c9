# SPDX-License-Identifier: Apache-2.0
"""Targets as they come and go at an iSNS server: by notification, and by looking again.

Some servers accept a registration for notifications and send none, or send what cannot be read; a
server that was restarted has forgotten us. So the server is also asked at intervals, and each time
whether we are still registered.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio

from ...errors import (
    ConnectError,
    ConnectionLost,
    DiscoveryTimeout,
    IscsiError,
    IsnsBusy,
    IsnsRejected,
)
from ...names import Portal
from ...transport.network import OWN, Network
from ..targets import Inventory, TargetChange
from .client import IsnsClient
from .machine import IsnsSettings
from .opening import open_isns

POLL_INTERVAL = 60.0
"""Seconds between two looks at a server that does not notify."""
LOST_POLL_INTERVAL = 10.0
"""The same while the server does not answer."""
_AWAY = (ConnectError, ConnectionLost, DiscoveryTimeout, IsnsBusy)


@dataclass(frozen=True, slots=True)
class ServerLost:
    """The server does not answer; what it said last may be out of date."""

    error: IscsiError


@dataclass(frozen=True, slots=True)
class ServerFound:
    """The server answers again."""


WatchEvent = TargetChange | ServerLost | ServerFound


class TargetWatch:
    """An endless iterator of what changes; made by :func:`watch_isns`."""

    def __init__(self, client: IsnsClient, poll_interval: float) -> None:
        self.client = client
        self.notifies = False
        """The server took our registration for notifications. It may send none all the same."""
        self.inventory = Inventory()
        """The targets as of the last look."""
        self._poll_interval = poll_interval
        self._events: deque[WatchEvent] = deque()
        self._lost: IscsiError | None = None

    async def begin(self) -> None:
        """Register, and look for the first time. Raises as :meth:`IsnsClient.call`."""
        await self.client.listen()
        await self._register()
        self._events.extend(self.inventory.update(await self.client.targets()))

    async def _register(self) -> None:
        """Without a registration there are no notifications; there is still the looking."""
        self.notifies = False
        with contextlib.suppress(IsnsRejected):
            await self.client.register()
            await self.client.register_scn()
            self.notifies = True

    def __aiter__(self) -> TargetWatch:
        return self

    async def __anext__(self) -> WatchEvent:
        """Wait for the next change.

        Raises:
            IsnsRejected, ProtocolError: the server answers, but not to this. While it does not
            answer at all there is a ServerLost, and the watch goes on.

        Cancellation: nothing is lost; the next call goes on.
        """
        while not self._events:
            interval = self._poll_interval
            if self._lost is not None:
                interval = min(interval, LOST_POLL_INTERVAL)
            with anyio.move_on_after(interval):
                await self.client.notification()
            await self._look()
        return self._events.popleft()

    async def _look(self) -> None:
        try:
            if await self.client.registered_entity() != self.client.entity:
                await self._register()
            targets = await self.client.targets()
        except _AWAY as error:
            if self._lost is None:
                self._events.append(ServerLost(error))
            self._lost = error
            return
        if self._lost is not None:
            self._lost = None
            self._events.append(ServerFound())
        self._events.extend(self.inventory.update(targets))


@contextlib.asynccontextmanager
async def watch_isns(
    server: Portal | str,
    *,
    initiator_name: str | None = None,
    settings: IsnsSettings | None = None,
    network: Network = OWN,
    poll_interval: float = POLL_INTERVAL,
) -> AsyncIterator[TargetWatch]:
    """Watch the targets of an iSNS server; what was registered is deregistered at the end.

    The initiator name is registered, with a UDP port of this host for notifications. Two watches
    of one host need two names: a name is registered once in a server.

    ``async for event in watch`` first gives a TargetAdded for each target that is there.

    Raises:
        As :func:`discover_isns`.

    Cancellation: the registrations are taken back, within a few seconds.
    """
    async with open_isns(
        server, initiator_name=initiator_name, settings=settings, network=network
    ) as client:
        watch = TargetWatch(client, poll_interval)
        await watch.begin()
        yield watch
