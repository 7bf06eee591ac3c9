# SPDX-License-Identifier: Apache-2.0
"""What a FUSE channel is: it serves one block device as one file in one FUSE mount.

Two kinds stand behind this interface: ``native`` reads /dev/fuse itself, ``pyfuse3`` goes through
libfuse. Whoever runs one picks it by name (:func:`fusefs.fuse.make_channel`) and sees no other
difference than speed and, with pyfuse3, no discard. What the operations on the file mean is in
:mod:`fusefs.fuse.blockfile`; mounting and unmounting belong to :mod:`fusefs.host`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import anyio
from anyio.abc import TaskStatus

from pyscsi_init.device.interface import BlockDevice

from .blockfile import BlockFile


class Timer(Protocol):
    """A call that will be made, unless cancelled."""

    def cancel(self) -> None:
        """Do not make the call."""


class Reactor(Protocol):
    """The part of an event loop that a channel needs (:mod:`pyscsi_init.transport.reactor`)."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back on the loop's thread while ``fd`` is readable."""

    def remove_reader(self, fd: int) -> None:
        """Call no more."""

    def at_end_of_turn(self, callback: Callable[[], None]) -> None:
        """Call once after the present callbacks; at once outside of them."""

    def now(self) -> float:
        """The loop's clock, in seconds."""

    def call_at(self, deadline: float, callback: Callable[[], None]) -> Timer:
        """Call once when ``now()`` has reached ``deadline``."""


@dataclass(slots=True)
class ChannelStatistics:
    """What came from the kernel since the channel began."""

    reads: int = 0
    writes: int = 0
    flushes: int = 0
    flushed_writes: int = 0
    """How many of the first ``writes`` a successful flush has made stable."""
    unflushed_before: bool = False
    """An earlier process has answered writes, and nobody knows of a flush since."""
    discards: int = 0
    """FALLOCATE: holes and zeroed ranges."""
    bytes_read: int = 0
    bytes_written: int = 0
    errors: int = 0
    """Reads, writes, flushes and discards that were answered with an errno."""
    last_error: str = ""
    """Why the last of them was."""
    in_flight: int = 0
    max_in_flight: int = 0

    def failed(self, why: str) -> None:
        """A request is answered with an errno."""
        self.errors += 1
        self.last_error = why


class Channel(ABC):
    """One block device as the file ``name`` of one FUSE mount."""

    def __init__(
        self, device: BlockDevice, *, read_only: bool, name: str, fua: bool = False
    ) -> None:
        self.file = BlockFile(device, read_only=read_only, name=name, fua=fua)
        self._statistics = ChannelStatistics()
        self.closed: list[Callable[[], None]] = []
        """Called once, on the loop's thread, when the kernel has ended the connection: the file
        system was unmounted or aborted."""
        self._ended = anyio.Event()
        self._is_ended = False

    @property
    def statistics(self) -> ChannelStatistics:
        """What came from the kernel; the object is the same each time."""
        return self._statistics

    @property
    def is_closed(self) -> bool:
        """True when nothing more will come from the kernel."""
        return self._is_ended

    def _end(self) -> None:
        if not self._is_ended:
            self._is_ended = True
            self._ended.set()
            for notify in list(self.closed):
                notify()

    @abstractmethod
    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until the kernel ends the connection or :meth:`stop` is called.

        Requests that were taken are answered before it returns. The device stays open.

        Cancellation: takes no more requests, waits for the answers to those taken, then raises.
        """

    @abstractmethod
    def stop(self) -> None:
        """Take no more requests; ``serve`` returns when those taken are answered. The mount stays,
        and what the kernel still wants waits in it: for a successor, or for an unmount."""
