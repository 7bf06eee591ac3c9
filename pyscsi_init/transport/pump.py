# SPDX-License-Identifier: Apache-2.0
"""Bytes between one socket and one session machine. The only place that reads and writes it.

A readable socket is read until it is empty, every whole PDU in the buffer is handled, and all PDUs
that this made leave in one sendmsg. A read that returns less than it could has emptied the socket,
so no system call is spent on hearing EAGAIN. While a long Data-In comes in, the kernel is told not
to wake us before the rest of it is there (SO_RCVLOWAT): one wake-up per PDU and not per segment.

INVARIANT: nothing but ``flush`` writes the socket, and it only writes what the machine queued, in
order; a partial write stays queued. So no PDU is torn, whoever is cancelled.
(tests/pyscsi_init/transport/test_pump.py)
"""

from __future__ import annotations

import socket
import struct
from typing import Protocol

from ..session import SessionMachine
from .reactor import Reactor

MAX_READS = 16
"""Reads per wake-up, so that one busy session does not starve the others on the loop."""

MAX_WAIT_BYTES = 256 << 10
"""Wait for no more at once: on a slow line that would look like a target that is silent."""


_ABORT, _IN_ORDER = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
"""For SO_LINGER (socket(7)): close sends RST; or what is queued, and FIN."""


class Owner(Protocol):
    """Whoever owns the machine, and acts on what it has to say."""

    in_turn: bool
    """``settle`` will be called at the end of this turn anyway."""

    def settle(self) -> None:
        """Send what is queued, act on events, see to the timer."""


class Pump:
    """The socket of one connection, from the moment TCP is up until ``close``."""

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        machine: SessionMachine,
        owner: Owner,
    ) -> None:
        self._reactor = reactor
        self._sock = sock
        self._fd = sock.fileno()
        self._machine = machine
        self._owner = owner
        self._receive = sock.recv_into
        self._scatter = sock.recvmsg_into
        self._send = sock.sendmsg
        self._writing = False
        self._low_water = 1
        self.closed = False
        # A connection that is given up, or whose process dies, takes with it what was not sent. The
        # kernel would go on sending it for minutes: a write that nobody stands for any more, on a
        # line that comes back when another node has the disk.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        reactor.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        machine = self._machine
        now = self._reactor.now()
        self._owner.in_turn = True
        for _ in range(MAX_READS):
            buffers = machine.receive_buffers()
            try:
                if len(buffers) == 1:
                    count = self._receive(buffers[0])
                    room = len(buffers[0])
                else:
                    count = self._scatter(buffers)[0]
                    room = len(buffers[0]) + len(buffers[1])
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                machine.connection_failed(f"the connection broke ({error.strerror})", now)
                break
            if count == 0:
                machine.receive_eof(now)
                break
            machine.bytes_received(count, now)
            if machine.connection is None or count < room:
                break
            self.flush()
        missing = machine.fast.direct
        if missing is not None or self._low_water != 1:
            self._wait_for(1 if missing is None else min(len(missing), MAX_WAIT_BYTES))
        self._owner.settle()

    def _wait_for(self, count: int) -> None:
        """Not to be woken for less than ``count`` bytes, which are known to come: no other answer
        waits behind them."""
        if count != self._low_water and not self.closed:
            self._low_water = count
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def look(self) -> None:
        """Take what has come and was too little to be woken for: a slow line is not silent."""
        if self._low_water != 1 and not self.closed:
            self._readable()

    def flush(self) -> None:
        """Send what is queued, as much as the socket takes; the rest when it is writable again."""
        machine = self._machine
        while not self.closed and (buffers := machine.data_to_send()):
            try:
                count = self._send(buffers)
            except (BlockingIOError, InterruptedError):
                if not self._writing:
                    self._writing = True
                    self._reactor.add_writer(self._fd, self._writable)
                return
            except OSError as error:
                machine.connection_failed(
                    f"the connection broke ({error.strerror})", self._reactor.now()
                )
                break
            if machine.bytes_sent(count):
                break
        if self._writing:
            self._writing = False
            self._reactor.remove_writer(self._fd)

    def _writable(self) -> None:
        self._owner.settle()

    def close(self, *, in_order: bool = True) -> None:
        """Close the socket; what was not sent yet still is, if that is ``in_order``. Idempotent."""
        if self.closed:
            return
        self.closed = True
        if in_order:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _IN_ORDER)
        self._reactor.remove_reader(self._fd)
        if self._writing:
            self._writing = False
            self._reactor.remove_writer(self._fd)
        self._sock.close()
