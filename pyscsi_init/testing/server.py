# SPDX-License-Identifier: Apache-2.0
"""The server: portals to listen on, targets to show, and the sessions of all of them.

:meth:`TargetServer.running` is the door::

    target = Target("iqn.2024-01.example:disk", luns={0: RamDisk(64 << 20)})
    async with TargetServer([target]).running() as portal:
        ...

Runs on whatever event loop anyio runs on. Timers and worker threads that commands need belong to
the server, not to a connection, so that a delayed write outlives the connection it came by.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.to_thread

from ..errors import ConfigurationError, LocalProtocolError
from ..names import Portal
from .connection import Connection
from .login import Place
from .settings import ChapAccounts, Redirect, TargetSettings, chap_accounts
from .target import Counters, Target

if TYPE_CHECKING:
    from .session import Session

BACKLOG = 128
WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 - recognised, not bound to


@dataclass(slots=True)
class Listener:
    """One portal: where to listen, and its portal group."""

    host: str = "127.0.0.1"
    port: int = 0
    tag: int = 1
    silent: bool = False
    """Take connections and never answer on them."""
    advertised: str | None = None
    """What SendTargets shows instead of the address that was connected to."""
    socket: socket.socket | None = None
    scope: anyio.CancelScope | None = None

    @property
    def portal(self) -> Portal:
        """The address, with the port that was given out."""
        return Portal(self.host, self.port, self.tag)

    def open(self) -> None:
        """Bind and listen.

        Raises:
            ConfigurationError: the address cannot be bound.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((self.host, self.port))
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            raise ConfigurationError(
                "portal", f"{self.host}:{self.port}", f"cannot be listened on ({error.strerror})"
            ) from error
        self.socket = sock
        self.port = sock.getsockname()[1]

    def close(self) -> None:
        """Stop listening; connection attempts are refused from now on."""
        if self.scope is not None:
            self.scope.cancel()
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class TargetServer:
    """Shows targets on one or several portals.

    ``port`` 0 takes any free port. ``portals`` replaces ``host`` and ``port`` where there are
    several. ``discovery_chap`` is what discovery sessions have to show.
    """

    def __init__(
        self,
        targets: Iterable[Target],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        portals: Sequence[Listener] | None = None,
        discovery_chap: ChapAccounts = None,
        discovery_settings: TargetSettings | None = None,
    ) -> None:
        self.targets = {target.name: target for target in targets}
        self.listeners = list(portals) if portals else [Listener(host, port)]
        self.discovery_chap = chap_accounts(discovery_chap)
        self.discovery_settings = discovery_settings or TargetSettings()
        self.counters = Counters()
        self.sessions: list[Session] = []
        self.connections: list[Connection] = []
        self._tasks: anyio.abc.TaskGroup | None = None
        self._tsih = 0

    @property
    def portals(self) -> list[Portal]:
        """All portals, with the ports that were given out."""
        return [listener.portal for listener in self.listeners]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Portal]:
        """Listen and serve; gives the first portal. On leaving, all connections are closed.

        Raises:
            ConfigurationError: a portal cannot be listened on.
        Cancellation: everything is closed, as on leaving.
        """
        opened: list[Listener] = []
        failure: Exception | None = None
        try:
            for listener in self.listeners:
                listener.open()
                opened.append(listener)
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for listener in self.listeners:
                    tasks.start_soon(self._accept, listener)
                try:
                    yield self.listeners[0].portal
                except Exception as error:
                    # An error of the body shall reach the caller as itself, not in a group.
                    failure = error
                finally:
                    tasks.cancel_scope.cancel()
        finally:
            self._tasks = None
            for listener in opened:
                listener.close()
        if failure is not None:
            raise failure

    async def _accept(self, listener: Listener) -> None:
        sock = listener.socket
        if sock is None or self._tasks is None:
            return
        with anyio.CancelScope() as listener.scope:
            while True:
                await anyio.wait_readable(sock)
                try:
                    peer, _ = sock.accept()
                except (BlockingIOError, ConnectionError):
                    continue
                peer.setblocking(False)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.counters.connections += 1
                self._tasks.start_soon(self._serve, Connection(self, listener, peer))

    async def _serve(self, connection: Connection) -> None:
        self.connections.append(connection)
        try:
            await connection.run()
        finally:
            self.connections.remove(connection)

    # What a test does to the whole server

    def stop_listening(self) -> None:
        """Refuse new connections; those that exist go on."""
        for listener in self.listeners:
            listener.close()

    def go_down(self) -> None:
        """Refuse new connections and cut those that exist, as when the machine loses power."""
        self.stop_listening()
        for connection in list(self.connections):
            connection.close()

    def come_back(self) -> None:
        """Listen again, on the same ports."""
        if self._tasks is None:
            raise LocalProtocolError("the server is not running")
        for listener in self.listeners:
            if listener.socket is None:
                listener.open()
                self._tasks.start_soon(self._accept, listener)

    # What connections and sessions use

    def place(self, listener: Listener) -> Place:
        """What a login on this listener has to know."""

        def find_target(name: str) -> Target | None:
            target = self.targets.get(name)
            return target if target is not None and self._is_seen(target, listener) else None

        def redirect(target: Target) -> Redirect | None:
            return target.redirects.get(listener.tag, target.redirects.get(None))

        def find_session(target: Target, initiator: str, isid: bytes, tsih: int) -> Session | None:
            for one in target.sessions:
                nexus = one.nexus
                if (one.tsih, nexus.initiator_name, nexus.isid) == (tsih, initiator, isid):
                    return one
            return None

        return Place(
            find_target=find_target,
            redirect=redirect,
            find_session=find_session,
            new_tsih=self._new_tsih,
            target_portal_group_tag=listener.tag,
            discovery_chap=self.discovery_chap,
            discovery_settings=self.discovery_settings,
        )

    @staticmethod
    def _is_seen(target: Target, listener: Listener) -> bool:
        return target.portal_group_tags is None or listener.tag in target.portal_group_tags

    def _new_tsih(self) -> int:
        self._tsih = self._tsih % 0xFFFF + 1
        return self._tsih

    def addresses(self, target: Target, connection: Connection) -> list[str]:
        """The TargetAddress values of a target, as the peer of ``connection`` can use them."""
        found = []
        for listener in self.listeners:
            if not self._is_seen(target, listener):
                continue
            host = listener.host
            if host in WILDCARDS:
                host = connection.local_address.host
            address = listener.advertised or Portal(host, listener.port).address
            found.append(f"{address},{listener.tag}")
        return found

    def begin_session(self, session: Session) -> None:
        """A login is done; an older session of the same nexus ends (RFC 7143 6.3.5)."""
        self.count("logins", session.target)
        if session.target is not None:
            for other in list(session.target.sessions):
                if other.nexus == session.nexus:
                    self.count("sessions_reinstated", session.target)
                    other.connection.close()
                    other.end()
            session.target.begin_session(session)
        self.sessions.append(session)
        if session.settings.nop_in_interval is not None and self._tasks is not None:
            self._tasks.start_soon(self._keep_alive, session, session.settings.nop_in_interval)

    def end_session(self, session: Session) -> None:
        """A session has ended."""
        if session in self.sessions:
            self.sessions.remove(session)

    async def _keep_alive(self, session: Session, interval: float) -> None:
        while not session.ended:
            await anyio.sleep(interval)
            tag = session.ping()
            await anyio.sleep(session.settings.nop_in_timeout)
            if tag in session.pings and not session.ended:
                session.drop()

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back later, whatever becomes of the connection that asked."""

        async def wait() -> None:
            await anyio.sleep(seconds)
            callback()

        if self._tasks is not None:
            self._tasks.start_soon(wait)

    def in_thread(self, work: Callable[[], None], callback: Callable[[], None]) -> None:
        """Do blocking work in a worker thread and call back."""

        async def run() -> None:
            await anyio.to_thread.run_sync(work)
            callback()

        if self._tasks is not None:
            self._tasks.start_soon(run)

    def _all_counters(self, target: Target | None) -> tuple[Counters, ...]:
        return (self.counters,) if target is None else (self.counters, target.counters)

    def count(self, name: str, target: Target | None) -> None:
        """Add one to a counter, here and at the target."""
        for counters in self._all_counters(target):
            setattr(counters, name, getattr(counters, name) + 1)

    def count_command(self, opcode: int, target: Target | None) -> None:
        """Count a SCSI command."""
        for counters in self._all_counters(target):
            counters.commands[opcode] += 1

    def count_function(self, function: int, target: Target | None) -> None:
        """Count a task management function."""
        for counters in self._all_counters(target):
            counters.task_management[function] += 1

    def count_pdu(self, name: str, opcode: int, connection: Connection) -> None:
        """Count a PDU of full feature phase."""
        target = connection.session.target if connection.session is not None else None
        for counters in self._all_counters(target):
            getattr(counters, name)[int(opcode)] += 1
