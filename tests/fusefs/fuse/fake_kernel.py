# SPDX-License-Identifier: Apache-2.0
"""A kernel in the test's hand: the other end of a pair of sockets that keep message borders.

The test turns the reactor by hand, so that batches, limits and the order of answers are exact.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

from fusefs.fuse import abi
from fusefs.fuse.abi import Opcode
from fusefs.fuse.native import NativeChannel
from fusefs.fuse.slots import RequestSlots
from pyscsi_init.device.fault import FaultDevice
from pyscsi_init.device.ram import RamDevice

SIZE = 8 << 20


class HandTimer:
    def __init__(self, deadline: float, callback: Callable[[], None]) -> None:
        self.deadline = deadline
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class HandReactor:
    """Calls back when the test says so."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.timers: list[HandTimer] = []
        self.reader: Callable[[], None] | None = None
        self.in_turn = False
        self.later: list[Callable[[], None]] = []

    def at_end_of_turn(self, callback: Callable[[], None]) -> None:
        if self.in_turn:
            self.later.append(callback)
        else:
            callback()

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.reader = callback

    def remove_reader(self, fd: int) -> None:
        self.reader = None

    def now(self) -> float:
        return self.time

    def call_at(self, deadline: float, callback: Callable[[], None]) -> HandTimer:
        timer = HandTimer(deadline, callback)
        self.timers.append(timer)
        return timer

    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        due = [timer for timer in self.timers if timer.deadline <= self.time]
        self.timers = [timer for timer in self.timers if timer.deadline > self.time]
        for timer in due:
            if not timer.cancelled:
                timer.callback()

    def turn(self) -> None:
        assert self.reader is not None, "nobody reads"
        self.in_one_turn(self.reader)

    def in_one_turn(self, *callbacks: Callable[[], object]) -> None:
        """What one look has found, and then the end of the turn."""
        self.in_turn = True
        try:
            for callback in callbacks:
                callback()
            while self.later:
                self.later.pop()()
        finally:
            self.in_turn = False


class Kernel:
    """The other end of the descriptor."""

    def __init__(self, *, slots: int = 256, areas: int = 8, any_alignment: bool = True) -> None:
        self.socket, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 20)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 20)
        ours.setblocking(False)
        self.socket.setblocking(False)
        self.ours = ours
        self.reactor = HandReactor()
        self.ram = RamDevice(SIZE, any_alignment=any_alignment)
        self.fault = FaultDevice(self.ram)
        self.slots = RequestSlots.create(slots, areas)
        self.channel = self._channel()
        self.unique = 0

    def _channel(self) -> NativeChannel:
        return NativeChannel(self.reactor, self.ours.fileno(), self.fault, slots=self.slots)

    def succeed(self) -> None:
        """The server is dead; another maps the same slots and reads the same descriptor."""
        self.channel._in_flight.close()
        dead, self.slots = self.slots, RequestSlots(os.dup(self.slots.fd))
        dead.close()
        self.reactor = HandReactor()
        self.fault = FaultDevice(self.ram)
        self.channel = self._channel()

    def close(self) -> None:
        self.channel._in_flight.close()
        self.socket.close()
        self.ours.close()
        self.slots.close()

    def ask(self, opcode: int, payload: bytes = b"", *, node: int = 2) -> int:
        self.unique += 2
        header = abi.IN_HEADER.pack(40 + len(payload), opcode, self.unique, node, 0, 0, 0, 0, 0)
        self.socket.send(header + payload)
        return self.unique

    def read(self, offset: int, size: int) -> int:
        return self.ask(Opcode.READ, abi.READ_IN.pack(0, offset, size, 0, 0, 0, 0))

    def write(self, offset: int, data: bytes, flags: int = 0) -> int:
        payload = abi.WRITE_IN.pack(0, offset, len(data), 0, 0, flags, 0) + data
        return self.ask(Opcode.WRITE, payload)

    def answers(self) -> list[tuple[int, int, bytes]]:
        found: list[tuple[int, int, bytes]] = []
        while True:
            try:
                answer = self.socket.recv(2 << 20)
            except BlockingIOError:
                return found
            length, error, unique = struct.unpack_from("=IiQ", answer)
            assert length == len(answer)
            found.append((unique, -error, answer[16:]))
