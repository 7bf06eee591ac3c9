# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy on loopback that a test can cut, stall, slow down or close for newcomers.

It runs in a thread of its own, so it serves whatever event loop the test uses. TCP is reliable, and
so is the proxy: bytes are delivered in order or the connection ends; none is invented or changed,
unless a test brings a ``Tamper`` (tamper.py).

What the peers see:
    cut()               the connections are reset (or closed with FIN) at once
    cut_after(n)        exactly n more bytes pass in that direction, then the connection is reset
    stall()             connections stay open and nothing passes: a dead network, a hung host
    refuse()            new connections are refused; existing ones live on
    delay(seconds)      each chunk arrives that much later
"""

from __future__ import annotations

import contextlib
import functools
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from .tamper import TO_CLIENT, TO_TARGET, Stream, Tamper

__all__ = ["TO_CLIENT", "TO_TARGET", "TcpProxy"]

CHUNK = 65536
BUFFER_LIMIT = 1 << 20
"""Bytes that wait in one direction before the proxy stops reading (TCP then holds the sender)."""


class _Direction:
    """One direction of one connection: chunks with the time at which they may leave."""

    def __init__(
        self, name: str, source: socket.socket, sink: socket.socket, stream: Stream | None
    ) -> None:
        self.name = name
        self.stream = stream
        self.source = source
        self.sink = sink
        self.queue: deque[tuple[float, bytes]] = deque()
        self.waiting = 0
        self.ended = False
        self.end_sent = False


class TcpProxy:
    """``with TcpProxy(("127.0.0.1", port)) as proxy:`` then connect to ``proxy.port``."""

    def __init__(
        self,
        upstream: tuple[str, int],
        *,
        connect: Callable[[tuple[str, int]], socket.socket] | None = None,
        tamper: Tamper | None = None,
    ) -> None:
        """``connect`` makes the connections to ``upstream``, where they are not to be made from
        here: from another network namespace, for one."""
        self.upstream = upstream
        self._connect = connect or functools.partial(socket.create_connection, timeout=5)
        self._tamper = tamper
        self.connections = 0
        """Connections accepted so far."""
        self.passed = {TO_TARGET: 0, TO_CLIENT: 0}
        """Bytes delivered so far, in each direction, over all connections."""
        self._stalled: set[str] = set()
        self._delay = 0.0
        self._limit: dict[str, int | None] = {TO_TARGET: None, TO_CLIENT: None}
        self._pairs: list[tuple[_Direction, _Direction]] = []
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._closing = False
        self._listener: socket.socket | None = self._listen(0)
        self.port = int(self._listener.getsockname()[1])
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)

    @staticmethod
    def _listen(port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=64)
        listener.setblocking(False)
        return listener

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        with contextlib.suppress(OSError):  # it may have seen that by itself, and closed this too
            self._wake_write.send(b"x")
        self._thread.join(10)

    @property
    def portal(self) -> str:
        """``127.0.0.1:PORT`` of the proxy."""
        return f"127.0.0.1:{self.port}"

    # -- orders: each has taken effect when the call returns -------------------------------------

    def _order(self, action: Callable[[], None]) -> None:
        done = threading.Event()
        self._orders.append((action, done))
        self._wake_write.send(b"x")
        if not done.wait(10):
            raise TimeoutError("the proxy does not run")

    def cut(self, *, reset: bool = True) -> None:
        """End every connection now, by RST or in order by FIN; what was on its way is lost."""
        self._order(lambda: self._end_all(reset))

    def cut_after(self, count: int, direction: str = TO_TARGET) -> None:
        """Let exactly ``count`` more bytes pass in ``direction``, then reset every connection."""
        self._order(lambda: self._limit.update({direction: count}))

    def stall(self, *directions: str) -> None:
        """Let nothing pass (in both directions by default) until :meth:`resume`."""
        self._order(lambda: self._stalled.update(directions or (TO_TARGET, TO_CLIENT)))

    def resume(self) -> None:
        """Deliver again, what was held back first."""
        self._order(self._stalled.clear)

    def delay(self, seconds: float) -> None:
        """Deliver what comes from now on that much later, in each direction."""

        def action() -> None:
            self._delay = seconds

        self._order(action)

    def refuse(self) -> None:
        """Refuse new connections; the port stays ours in name only."""
        self._order(self._close_listener)

    def accept(self) -> None:
        """Take new connections again, on the same port."""

        def action() -> None:
            if self._listener is None:
                self._listener = self._listen(self.port)

        self._order(action)

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self._register()
                for key, mask in self._selector.select(self._timeout()):
                    self._handle(key.fileobj, mask)
                self._deliver_all()
                while self._orders:
                    action, done = self._orders.popleft()
                    action()
                    done.set()
        finally:
            self._end_all(reset=True)
            self._close_listener()
            self._selector.close()
            self._wake_read.close()
            self._wake_write.close()

    def _register(self) -> None:
        """What to wait for follows from the state; it is few sockets, so it is worked out anew."""
        wanted: dict[socket.socket, int] = {self._wake_read: selectors.EVENT_READ}
        if self._listener is not None:
            wanted[self._listener] = selectors.EVENT_READ
        now = time.monotonic()
        for pair in self._pairs:
            for each in pair:
                if each.name in self._stalled:
                    continue
                if not each.ended and each.waiting < BUFFER_LIMIT:
                    wanted[each.source] = wanted.get(each.source, 0) | selectors.EVENT_READ
                if each.queue and each.queue[0][0] <= now:
                    wanted[each.sink] = wanted.get(each.sink, 0) | selectors.EVENT_WRITE
        registered = {key.fileobj: key.events for key in self._selector.get_map().values()}
        for known in registered:
            if known not in wanted:
                self._selector.unregister(known)
        for wish, events in wanted.items():
            if wish not in registered:
                self._selector.register(wish, events)
            elif registered[wish] != events:
                self._selector.modify(wish, events)

    def _timeout(self) -> float | None:
        due = [
            each.queue[0][0]
            for pair in self._pairs
            for each in pair
            if each.queue and each.name not in self._stalled
        ]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _handle(self, file: object, mask: int) -> None:
        if file is self._wake_read:
            with contextlib.suppress(BlockingIOError):
                self._wake_read.recv(4096)
        elif file is self._listener:
            self._take_connection()
        elif mask & selectors.EVENT_READ:
            for pair in list(self._pairs):
                for each in pair:
                    if each.source is file:
                        self._receive(pair, each)

    def _take_connection(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        try:
            target = self._connect(self.upstream)
        except OSError:
            self._close(client, reset=True)
            return
        for end in (client, target):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        streams = self._tamper.connection() if self._tamper is not None else {}
        self._pairs.append(
            (
                _Direction(TO_TARGET, client, target, streams.get(TO_TARGET)),
                _Direction(TO_CLIENT, target, client, streams.get(TO_CLIENT)),
            )
        )

    def _receive(self, pair: tuple[_Direction, _Direction], each: _Direction) -> None:
        try:
            data = each.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._end(pair, reset=True)
            return
        if data and each.stream is not None:
            data = each.stream.feed(data)
            if not data:
                return
        if data:
            each.queue.append((time.monotonic() + self._delay, data))
            each.waiting += len(data)
        else:
            each.ended = True

    def _deliver_all(self) -> None:
        now = time.monotonic()
        for pair in list(self._pairs):
            for each in pair:
                if each.name not in self._stalled and pair in self._pairs:
                    self._deliver(pair, each, now)
            if pair in self._pairs and all(each.end_sent for each in pair):
                self._end(pair, reset=False)

    def _deliver(self, pair: tuple[_Direction, _Direction], each: _Direction, now: float) -> None:
        try:
            while each.queue and each.queue[0][0] <= now:
                due, data = each.queue.popleft()
                limit = self._limit[each.name]
                allowed = data if limit is None else data[:limit]
                sent = 0
                try:
                    sent = each.sink.send(allowed) if allowed else 0
                finally:
                    if sent < len(data):
                        each.queue.appendleft((due, data[sent:]))
                each.waiting -= sent
                self.passed[each.name] += sent
                if limit is not None:
                    self._limit[each.name] = limit - sent
                    if sent == limit:
                        self._limit[each.name] = None
                        self._end_all(reset=True)
                        return
            if each.ended and not each.queue and not each.end_sent:
                each.end_sent = True
                each.sink.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self._end(pair, reset=True)

    # -- ending ---------------------------------------------------------------------------------

    @staticmethod
    def _close(end: socket.socket, *, reset: bool) -> None:
        if reset:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()

    def _end(self, pair: tuple[_Direction, _Direction], *, reset: bool) -> None:
        self._pairs.remove(pair)
        for each in pair:
            with contextlib.suppress(KeyError):
                self._selector.unregister(each.source)
            self._close(each.source, reset=reset)

    def _end_all(self, reset: bool) -> None:
        for pair in list(self._pairs):
            self._end(pair, reset=reset)

    def _close_listener(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
