# SPDX-License-Identifier: Apache-2.0
"""A target that does nothing but what its script says, on real sockets or without a network.

    async with ScriptedTarget().running() as target:
        ...                                     # an initiator connects to target.portal
        peer = await target.log_in(FirstBurstLength="4096")
        command = await peer.expect(ScsiCommand)
        await peer.send(peer.response(command))

``target.connect`` makes a connection without a network, by a socket pair: bytes are there as soon
as they are sent, so an event loop with a virtual clock (trio's autojump) can drive both ends. The
same scripts run either way.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from ...errors import ConnectError
from ...names import Portal
from ..server import Listener
from .connection import PATIENCE, ScriptedConnection
from .invariants import Invariants
from .recorder import Recorder

NAME = "iqn.2024-01.example:scripted"


class ScriptedTarget:
    """Listeners and connections under one record.

    Args:
        portals: where to listen; one free port of 127.0.0.1 if nothing is said.
        name: the target's name, for ``url``.
        allowed: witnesses whose complaints do not count (see :class:`Invariants`).
        keys: answers in the login phase that differ from ``ANSWERS``.
    """

    def __init__(
        self,
        *portals: Listener,
        name: str = NAME,
        allowed: Iterable[str] = (),
        **keys: str,
    ) -> None:
        self.listeners: Sequence[Listener] = portals or (Listener(),)
        self.name = name
        self.keys = keys
        self.recorder = Recorder(anyio.current_time)
        self.invariants = Invariants(self.recorder, allowed=allowed)
        self.connections: list[ScriptedConnection] = []
        """All that were ever accepted."""
        self.refusing = False
        """Connections without a network are refused."""
        self.unreachable = False
        """Connections without a network get no answer."""
        self._waiting: list[ScriptedConnection] = []
        self._arrived = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None

    @property
    def portal(self) -> Portal:
        """The first portal."""
        return self.listeners[0].portal

    @property
    def portals(self) -> list[Portal]:
        """All portals."""
        return [listener.portal for listener in self.listeners]

    def url(self, lun: int = 0) -> str:
        """The URL of a LUN."""
        return f"iscsi://{self.portal.address}/{self.name}/{lun}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ScriptedTarget]:
        """Listen; on leaving everything is closed, and what broke a rule is raised.

        Raises:
            Violation: the initiator broke a rule and the block did not notice.
            ConfigurationError: a portal cannot be listened on.
        """
        failure: Exception | None = None
        try:
            for listener in self.listeners:
                listener.open()
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for listener in self.listeners:
                    tasks.start_soon(self._accept_on, listener)
                try:
                    yield self
                except Exception as error:
                    failure = error
                finally:
                    tasks.cancel_scope.cancel()
        finally:
            self._tasks = None
            for listener in self.listeners:
                listener.close()
            for connection in self.connections:
                connection.close()
        if failure is not None:
            raise failure
        self.invariants.check()

    # -- connections ------------------------------------------------------------------------------

    async def accept(self, within: float = PATIENCE) -> ScriptedConnection:
        """The next connection, in the order in which they came.

        Raises:
            AssertionError: none came in time.
        """
        with anyio.move_on_after(within):
            while not self._waiting:
                self._arrived = anyio.Event()
                await self._arrived.wait()
            return self._waiting.pop(0)
        raise AssertionError(f"no connection within {within:g} s\n{self.recorder.tail()}")

    async def log_in(self, **keys: str) -> ScriptedConnection:
        """The next connection, taken honestly to full feature phase; ``keys`` are the answers that
        differ."""
        connection = await self.accept()
        await connection.log_in(**keys)
        return connection

    async def connect(self, portal: Portal, seconds: float) -> socket.socket:
        """A connection without a network: the initiator's end of a socket pair.

        Raises:
            ConnectError: ``refusing`` or ``unreachable`` is set.
        """
        if self.unreachable:
            await anyio.sleep(seconds)
        if self.unreachable or self.refusing:
            reason = "no answer" if self.unreachable else "nothing listens there"
            raise ConnectError(f"portal {portal}: {reason}", portal=str(portal), reason=reason)
        theirs, ours = socket.socketpair()
        theirs.setblocking(False)
        self._begin(ours, portal)
        return theirs

    async def _accept_on(self, listener: Listener) -> None:
        sock = listener.socket
        if sock is None:
            return
        with anyio.CancelScope() as listener.scope:
            while True:
                await anyio.wait_readable(sock)
                try:
                    peer, _ = sock.accept()
                except (BlockingIOError, ConnectionError):
                    continue
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._begin(peer, listener.portal)

    def _begin(self, sock: socket.socket, portal: Portal) -> None:
        sock.setblocking(False)
        number = len(self.connections)
        connection = ScriptedConnection(
            sock, portal, self.recorder, self.invariants, number=number, keys=self.keys
        )
        self.connections.append(connection)
        self._waiting.append(connection)
        if self._tasks is not None:
            self._tasks.start_soon(connection.read_all)
        self._arrived.set()
