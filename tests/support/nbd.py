# SPDX-License-Identifier: Apache-2.0
"""A disk in the test's own memory for a guest: its bytes can be looked at, its writes held back.

It serves the kernel's network block device in a guest. The two ends agree on the size by other
means, so there is no handshake: the connection begins with the transmission phase. Requests may be
answered in any order, so a write that is held holds back nothing else, as in a real disk array.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

REQUEST, REPLY = struct.Struct(">IHHQQI"), struct.Struct(">IIQ")
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
READ, WRITE, DISCONNECT, FLUSH, TRIM = range(5)

CLIENT = """
import fcntl, os, socket, sys
device, address, port, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
SET_SOCK, SET_BLKSIZE, DO_IT, SET_SIZE_BLOCKS, SET_FLAGS = (0xAB00 + n for n in (0, 1, 3, 7, 10))
connection = socket.create_connection((address, port), timeout=10)
connection.setblocking(True)
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
descriptor = os.open(device, os.O_RDWR)
fcntl.ioctl(descriptor, SET_BLKSIZE, 512)
fcntl.ioctl(descriptor, SET_SIZE_BLOCKS, size // 512)
fcntl.ioctl(descriptor, SET_FLAGS, 1 | 4 | 32)
fcntl.ioctl(descriptor, SET_SOCK, connection.fileno())
fcntl.ioctl(descriptor, DO_IT)
"""
"""The guest's end, for its Python: DEVICE ADDRESS PORT SIZE; runs for as long as the device."""


class NbdServer:
    """One disk; it answers a guest, and again after its reboot."""

    def __init__(self, size_bytes: int) -> None:
        self.data = bytearray(size_bytes)
        """The disk."""
        self.writes: list[tuple[int, bytes]] = []
        """Offset and first byte of each write, in the order in which they reached the disk."""
        self.held = 0
        """Writes that were held back, since the start."""
        self.port = 0
        self._lock = threading.Condition()
        self._hold: range = range(0)
        self._to_hold = 0
        self._waiting: list[Callable[[], None]] = []
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def start(self, address: str) -> None:
        """Listen, in the calling thread's network namespace."""
        self._listener = socket.create_server((address, 0))
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)

    def _start(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, name="nbd", daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """End every connection and every thread."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> NbdServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- orders ---------------------------------------------------------------------------------

    def hold(self, start: int, end: int, *, count: int = 1) -> None:
        """Hold the next ``count`` writes that touch ``start..end``; later ones overtake them."""
        with self._lock:
            self._hold, self._to_hold = range(start, end), count

    def wait_held(self, count: int = 1, timeout: float = 10.0) -> None:
        """Block until so many writes (since the start) were held."""
        with self._lock:
            if not self._lock.wait_for(lambda: self.held >= count, timeout):
                raise TimeoutError(f"{self.held} writes held, {count} expected")

    def release(self) -> None:
        """Carry out what is held, and hold nothing more."""
        with self._lock:
            self._to_hold = 0
            waiting, self._waiting = self._waiting, []
            for perform in waiting:
                perform()

    # -- the threads ----------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A guest whose power failed never ends its connection: the next one must not wait.
            self._start(self._serve, connection)

    @staticmethod
    def _receive(connection: socket.socket, count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            received = connection.recv_into(view)
            if not received:
                raise EOFError
            view = view[received:]
        return buffer

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            self._serve_requests(connection)

    def _serve_requests(self, connection: socket.socket) -> None:
        while True:
            header = self._receive(connection, REQUEST.size)
            magic, _, kind, handle, offset, length = REQUEST.unpack(header)
            if magic != REQUEST_MAGIC or kind == DISCONNECT:
                return
            payload = self._receive(connection, length) if kind == WRITE else bytearray()
            with self._lock:
                self._perform(connection, kind, handle, offset, length, payload)

    def _perform(
        self,
        connection: socket.socket,
        kind: int,
        handle: int,
        offset: int,
        length: int,
        payload: bytearray,
    ) -> None:
        answer = REPLY.pack(REPLY_MAGIC, 0, handle)
        if kind == READ:
            answer += self.data[offset : offset + length]
        elif kind == TRIM:
            self.data[offset : offset + length] = bytes(length)
        elif kind == WRITE:

            def write() -> None:
                self.data[offset : offset + length] = payload
                self.writes.append((offset, bytes(payload[:1])))
                # The connection may be gone with its guest; the write is carried out all the same.
                with contextlib.suppress(OSError):
                    connection.sendall(answer)

            touched = offset < self._hold.stop and offset + length > self._hold.start
            if self._to_hold and touched:
                self._to_hold -= 1
                self.held += 1
                self._waiting.append(write)
                self._lock.notify_all()
            else:
                write()
            return
        connection.sendall(answer)
