# SPDX-License-Identifier: Apache-2.0
"""An iSNS client on asyncio or trio: queries, our registration, and notifications.

Moves the bytes of :class:`.machine.IsnsMachine`, which decides what is sent, how often and for how
long. One task owns the TCP connection: it connects when something waits, and lets the server close
when nothing does.
"""

from __future__ import annotations

import contextlib
import socket

import anyio
import anyio.abc

from ...errors import (
    ConnectError,
    IscsiError,
    IsnsRejected,
    IsnsSourceRefused,
    IsnsUnsupported,
    ProtocolError,
)
from ...names import Portal
from ...transport.network import OWN, Network
from ...transport.sockets import connect
from ..datagrams import Datagrams, open_datagrams
from ..targets import DiscoveredTarget
from . import messages
from .attributes import DELIMITER, Attribute, NodeType, Tag, text
from .machine import IsnsMachine, StateChanged
from .messages import Request, Response, ScnPortal
from .status import INTERNAL_ERROR, NO_SUCH_ENTRY

ISNS_PORT = 3205
"""IANA's port for iSNS (RFC 4171 2.9)."""
_CHUNK = 65536


def parse_server(server: Portal | str) -> Portal:
    """``host``, ``host:port`` or ``[v6]:port`` with the port of iSNS where none is named.

    Raises InvalidUrl.
    """
    if isinstance(server, Portal):
        return server
    parsed = Portal.parse(server)
    address = server.strip().partition(",")[0]
    bare = address.rpartition("]")[2] if address.startswith("[") else address
    return Portal(parsed.host, parsed.port if bare.count(":") == 1 else ISNS_PORT)


class IsnsClient:
    """The client of one server under one initiator name; made by :func:`open_isns`."""

    def __init__(
        self,
        machine: IsnsMachine,
        server: Portal,
        tasks: anyio.abc.TaskGroup,
        network: Network = OWN,
    ) -> None:
        self.server = server
        self.network = network
        self.initiator_name = machine.name
        self.entity: str | None = None
        """The entity that we are registered in, as the server called it."""
        self._machine = machine
        self._tasks = tasks
        self._wake = anyio.Event()
        self._news = anyio.Event()
        self._socket: socket.socket | None = None
        self._reading: anyio.CancelScope | None = None
        self._read_ended = anyio.Event()
        self._scopes: list[anyio.CancelScope] = []
        self._stopped = False
        self._portal: ScnPortal | None = None
        self._owns_node = False
        self.notified = False
        """A notification came since this was last set to False."""

    # -- requests -------------------------------------------------------------------------------

    async def call(self, request: Request) -> Response:
        """Send a request and give the response of the server.

        Raises:
            IsnsRejected: its status is not Successful; the subclass says which.
            ConnectError: the server cannot be reached.
            DiscoveryTimeout, ConnectionLost: it did not answer, at every attempt.
            ProtocolError: what it answered is no iSNSP.

        Cancellation: the answer is ignored when it comes; the server may have done it.
        """
        done = anyio.Event()
        call = self._machine.call(request, done.set, anyio.current_time())
        self._wake.set()
        try:
            await done.wait()
        finally:
            self._machine.cancel(call)
        if call.error is not None:
            raise call.error
        assert call.response is not None  # noqa: S101  (one of the two is there)
        return call.response

    async def targets(self) -> list[DiscoveredTarget]:
        """The targets that share a discovery domain with us. Raises as :meth:`call`."""
        try:
            response = await self.call(messages.query_targets(self.initiator_name))
        except IsnsRejected as error:
            if error.status != INTERNAL_ERROR:
                raise
            # open-isns sends 8 KiB at most, and refuses a query whose answer is longer like this.
            return await self._targets_one_by_one()
        return messages.parse_targets(response.attributes)

    async def _targets_one_by_one(self) -> list[DiscoveredTarget]:
        found: list[DiscoveredTarget] = []
        seen: set[str] = {""}
        name = ""
        while True:
            try:
                response = await self.call(messages.next_node(self.initiator_name, name))
            except IsnsRejected as error:
                if error.status != NO_SUCH_ENTRY:
                    raise
                return found  # RFC 4171 5.6.5.3: the last one was the last one
            node = response.first(Tag.ISCSI_NAME)
            name = node.text if node is not None else ""
            if name in seen:
                raise ProtocolError(f"iSNS server {self.server.address}: its nodes go in a circle")
            seen.add(name)
            kind = response.first(Tag.ISCSI_NODE_TYPE)
            if kind is None or kind.number & NodeType.TARGET:
                one = await self.call(messages.query_target(self.initiator_name, name))
                found += messages.parse_targets(one.attributes)

    async def registered_entity(self) -> str | None:
        """The entity in which our initiator name is registered, by whomever; None if it is not.

        Raises as :meth:`call`.
        """
        query = messages.query_node(self.initiator_name, self.initiator_name)
        try:
            response = await self.call(query)
        except IsnsSourceRefused:
            return None
        if DELIMITER not in response.attributes:
            return None
        results = response.attributes[response.attributes.index(DELIMITER) + 1 :]
        found = next((each for each in results if each.tag == Tag.ENTITY_IDENTIFIER), None)
        return found.text if found is not None and found.value else None

    # -- registration ---------------------------------------------------------------------------

    async def register(self) -> None:
        """Register our initiator name, and after :meth:`listen` the port for notifications.

        Where the name is registered already in an entity of somebody else's, such as the iSNS
        daemon of this host, only the port is added to that entity. Raises as :meth:`call`.
        """
        there = await self.registered_entity()
        ours = there is None or there in (self.initiator_name, self.entity)
        self._owns_node = ours
        if not ours and self._portal is None:
            self.entity = there
            return
        try:
            response = await self._register(there, ours, esi=True)
        except IsnsUnsupported:
            # A server may do without entity status inquiries, but then it says so.
            response = await self._register(there, ours, esi=False)
        # RFC 4171 5.6.5.1: the server may assign another identifier than the one we wrote.
        assigned = response.first(Tag.ENTITY_IDENTIFIER)
        self.entity = assigned.text if assigned is not None else there or self.initiator_name

    async def _register(self, there: str | None, ours: bool, *, esi: bool) -> Response:
        return await self.call(
            messages.register(
                self.initiator_name,
                there or self.initiator_name,
                portal=self._portal,
                replace=ours,
                node=ours,
                esi=esi,
            )
        )

    async def deregister(self) -> None:
        """Take back what :meth:`register` and :meth:`register_scn` did. Raises as :meth:`call`."""
        if self.entity is None:
            return
        objects: tuple[Attribute, ...] = ()
        if self._owns_node:
            objects = (text(Tag.ENTITY_IDENTIFIER, self.entity),)
            if self._portal is not None:
                with contextlib.suppress(IscsiError):
                    await self.call(messages.scn_deregister(self.initiator_name))
        elif self._portal is not None:
            objects = self._portal.attributes()
        self.entity = None
        if objects:
            await self.call(messages.deregister(self.initiator_name, objects))

    async def register_scn(self) -> None:
        """Ask for notifications of targets that come, go or change.

        Raises:
            IsnsRejected: 17, nobody listens: :meth:`listen` and :meth:`register` come first.
            Others as :meth:`call`.
        """
        await self.call(messages.scn_register(self.initiator_name))

    async def listen(self) -> ScnPortal:
        """Open the UDP socket for notifications, on the address that the server is reached from.

        It is closed with the client. Raises ConnectError.
        """
        if self._portal is None:
            host = await self._local_address()
            self._portal = await self._tasks.start(self._receive_datagrams, host)
        return self._portal

    async def _local_address(self) -> str:
        if self._socket is None:
            sock = await self._connect_once()
            try:
                return str(sock.getsockname()[0])
            finally:
                sock.close()
        return str(self._socket.getsockname()[0])

    async def notification(self) -> None:
        """Return when the server has told of a change since the last return."""
        while not self.notified:
            await self._news.wait()
        self.notified = False

    # -- the connection and the datagrams -------------------------------------------------------

    async def run(self) -> None:
        """Own the connection, until :meth:`stop`.

        Cancellation from outside does not reach this task: whoever is cancelled deregisters first.
        """
        with self._shielded():
            try:
                while True:
                    await self._step()
            finally:
                await self._close()

    def stop(self) -> None:
        """End the tasks of the client, also those that were started and have not begun."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()

    def _shielded(self) -> anyio.CancelScope:
        scope = anyio.CancelScope(shield=True)
        if self._stopped:
            scope.cancel()
        self._scopes.append(scope)
        return scope

    async def _step(self) -> None:
        """Do what is due, and wait for the next thing to do."""
        machine = self._machine
        self._wake = anyio.Event()
        now = anyio.current_time()
        machine.handle_deadline(now)
        if self._socket is not None and not machine.is_connected:
            await self._close()
        if machine.wants_connection(now):
            await self._connect()
        try:
            await self._send(machine.data_to_send(anyio.current_time()))
        except OSError:
            machine.connection_lost(machine.lost_connection_error(), anyio.current_time())
            return
        deadline = machine.next_deadline()
        with anyio.move_on_after(
            None if deadline is None else max(0.0, deadline - anyio.current_time())
        ):
            await self._wake.wait()

    async def _connect_once(self) -> socket.socket:
        try:
            limit = self._machine.settings.connect_timeout
            return await connect(self.server, limit, network=self.network)
        except ConnectError as error:
            raise ConnectError(
                f"iSNS server {self.server.address}: {error}",
                portal=error.portal,
                reason=error.reason,
            ) from error

    async def _connect(self) -> None:
        try:
            self._socket = await self._connect_once()
        except ConnectError as error:
            self._machine.connection_lost(error, anyio.current_time())
            return
        self._machine.connected()
        self._reading, self._read_ended = self._shielded(), anyio.Event()
        self._tasks.start_soon(self._read, self._socket, self._reading, self._read_ended)

    async def _close(self) -> None:
        if self._socket is None or self._reading is None:
            return
        # Nobody may wait for a socket that is closed.
        self._reading.cancel()
        with anyio.CancelScope(shield=True):
            await self._read_ended.wait()
        self._socket.close()
        self._scopes.remove(self._reading)
        self._socket = self._reading = None

    async def _read(
        self, sock: socket.socket, scope: anyio.CancelScope, ended: anyio.Event
    ) -> None:
        try:
            with scope:
                await self._read_until_end(sock)
        finally:
            ended.set()

    async def _read_until_end(self, sock: socket.socket) -> None:
        while self._machine.is_connected:
            await anyio.wait_readable(sock)
            try:
                data = sock.recv(_CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            now = anyio.current_time()
            if data:
                self._machine.receive_data(data, now)
            else:
                self._machine.connection_lost(self._machine.lost_connection_error(), now)
            self._take_events()
            self._wake.set()

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._socket is not None:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                with anyio.move_on_after(self._machine.settings.request_timeout) as scope:
                    await anyio.wait_writable(self._socket)
                if scope.cancelled_caught:
                    raise OSError("the server takes nothing") from None

    async def _receive_datagrams(
        self, host: str, *, task_status: anyio.abc.TaskStatus[ScnPortal]
    ) -> None:
        with self._shielded():
            async with open_datagrams(host, network=self.network) as datagrams:
                task_status.started(ScnPortal(*datagrams.local))
                await self._answer_datagrams(datagrams)

    async def _answer_datagrams(self, datagrams: Datagrams) -> None:
        while True:
            data, source = await datagrams.receive()
            for reply in self._machine.receive_datagram(data):
                with contextlib.suppress(ConnectError):
                    await datagrams.send(reply, source)
            self._take_events()

    def _take_events(self) -> None:
        while (event := self._machine.next_event()) is not None:
            self.notified = self.notified or isinstance(event, StateChanged)
        if self.notified:
            self._news.set()
            self._news = anyio.Event()
