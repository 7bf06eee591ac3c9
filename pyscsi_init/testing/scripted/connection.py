# SPDX-License-Identifier: Apache-2.0
"""One connection of a scripted target: expect, send, withhold, delay, split, close, reset, stall.

What comes in is read at once, so that its time is right; a script takes PDUs from there in order.
Nothing is ever answered unless the script says so, but for the two conveniences ``log_in`` and
``serve``.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import anyio

from ...names import Portal
from ...pdu import LoginRequest, LoginResponse, LogoutRequest, Pdu
from ..unit import LogicalUnit
from .invariants import Invariants
from .peer import Peer, Sendable, ends_login
from .recorder import Recorder, shown
from .serving import UnitServer

P = TypeVar("P", bound=Pdu)

PATIENCE = 10.0
"""Seconds in which what a script expects must come."""

_READ = 1 << 18


class ScriptedConnection(Peer):
    """The target's end of one connection, with a socket."""

    def __init__(
        self,
        sock: socket.socket,
        portal: Portal,
        recorder: Recorder,
        invariants: Invariants,
        **peer: Any,
    ) -> None:
        super().__init__(recorder, invariants, **peer)
        self.portal = portal
        """Where the initiator connected to."""
        self.ended = False
        """The initiator closed its side, or reset the connection."""
        self._socket = sock
        self._news = anyio.Event()
        self._may_read = anyio.Event()
        self._may_read.set()
        self._closed = False
        self._server: UnitServer | None = None

    # -- what comes -------------------------------------------------------------------------------

    async def read_all(self) -> None:
        """Take what comes until the initiator closes; run by the target."""
        while not self._closed:
            await self._may_read.wait()
            if self._closed:
                return
            try:
                await anyio.wait_readable(self._socket)
                if not self._may_read.is_set():
                    continue
                data = self._socket.recv(_READ)
            except BlockingIOError:
                continue
            except (OSError, anyio.ClosedResourceError):
                data = b""
            if not data:
                self.ended = True
                self._tell()
                return
            self.receive(data)
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def next(self, within: float = PATIENCE) -> Pdu:
        """The next PDU, whatever it is.

        Raises:
            AssertionError: none came in time, or the connection ended first.
            Violation: the initiator broke a rule.
        """
        with anyio.move_on_after(within):
            while not self.inbox and not self.ended:
                await self._news.wait()
        self.invariants.check()
        if self.inbox:
            return self.inbox.popleft()
        why = "the initiator closed the connection" if self.ended else f"nothing in {within:g} s"
        raise AssertionError(f"a PDU was expected, but {why}\n{self.recorder.tail()}")

    async def expect(
        self,
        kind: type[P],
        where: Callable[[P], bool] = lambda _: True,
        *,
        skip: type[Pdu] | tuple[type[Pdu], ...] = (),
        within: float = PATIENCE,
    ) -> P:
        """The next PDU, which must be of this kind and as ``where`` says; ``skip`` names what may
        come before it.

        Raises:
            AssertionError: something else came, or nothing in time.
            Violation: the initiator broke a rule.
        """
        while True:
            pdu = await self.next(within)
            if isinstance(pdu, kind) and where(pdu):
                return pdu
            if isinstance(pdu, skip):
                continue
            raise AssertionError(
                f"{kind.__name__} was expected, not {shown(pdu)}\n{self.recorder.tail()}"
            )

    async def expect_nothing(self, seconds: float, *kinds: type[Pdu]) -> None:
        """The initiator sends nothing (of these kinds) for so long.

        Raises:
            AssertionError: it did.
        """
        since = self.recorder.mark()
        await anyio.sleep(seconds)
        self.invariants.check()
        self.recorder.assert_none(*kinds, since=since, connection=self.number)

    async def expect_end(self, within: float = PATIENCE) -> None:
        """The initiator closes the connection, and sends nothing that was not looked at.

        Raises:
            AssertionError: it did not, or it did send something.
        """
        with anyio.move_on_after(within):
            while not self.ended:
                await self._news.wait()
        self.invariants.check()
        if not self.ended:
            raise AssertionError(f"still open after {within:g} s\n{self.recorder.tail()}")
        if self.inbox:
            raise AssertionError(f"it sent {shown(self.inbox[0])}\n{self.recorder.tail()}")

    # -- what goes --------------------------------------------------------------------------------

    async def send(self, *items: Sendable, split: int = 0, gap: float = 0.0) -> None:
        """Send PDUs, raw PDUs or plain bytes: in one piece, or in pieces of ``split`` bytes with
        ``gap`` seconds between them. Does nothing where the initiator has gone."""
        data = memoryview(self.encode(*items))
        while len(data):
            part = data[: split or len(data)]
            data = data[len(part) :]
            if not await self._write(part):
                return
            if len(data):
                await anyio.sleep(gap)

    async def _write(self, data: memoryview) -> bool:
        while len(data) and not self._closed:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError:
                return False
        return not self._closed

    def fin(self) -> None:
        """Close our direction: the initiator reads the end of the stream."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def rst(self) -> None:
        """Reset the connection. Without a network it just ends."""
        if self._socket.family != socket.AF_UNIX:
            linger = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def stop_reading(self) -> None:
        """Read no more, so that the initiator's socket fills up."""
        self._may_read = anyio.Event()

    def read_again(self) -> None:
        """End ``stop_reading``."""
        self._may_read.set()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.ended = True
        self._may_read.set()
        anyio.notify_closing(self._socket)
        self._socket.close()
        self._tell()

    # -- conveniences -----------------------------------------------------------------------------

    async def log_in(self, **keys: str) -> LoginResponse:
        """Answer honestly until full feature phase; ``keys`` are the answers that differ. Gives the
        last response."""
        self.keys.update(keys)
        while True:
            response = self.login_answer(await self.expect(LoginRequest))
            await self.send(response)
            if ends_login(response):
                return response

    async def refuse_login(self, status_class: int, status_detail: int, **fields: Any) -> None:
        """Answer the next Login Request with a status."""
        request = await self.expect(LoginRequest)
        await self.send(self.login_refusal(request, status_class, status_detail, **fields))

    async def log_out(self) -> None:
        """Answer the next Logout Request, and let pass what comes before it."""
        request = await self.expect(LogoutRequest, skip=Pdu)
        await self.send(self.logged_out(request))

    async def serve(
        self, unit: LogicalUnit, until: Callable[[Pdu], bool] = lambda _: False
    ) -> Pdu | None:
        """Answer honestly for a unit, LUN 0, one command at a time.

        Gives the first PDU for which ``until`` holds, which is left to the script, or None after
        the logout or the end of the connection. May be called again to go on.
        """
        if self._server is None:
            self._server = UnitServer(self, unit)
        return await self._server.serve(until)
