# SPDX-License-Identifier: Apache-2.0
"""A LUN that has grown: the loop device over its file takes over the new size.

The FUSE channel has told the kernel by then that the file's attributes are to be asked for anew;
but a loop device asks only when it is told to. A command may do that (volume/resize.py). This does
it for a unit that tells of its growth by itself, or that came back larger, when no command runs.

A size that became smaller is not passed on: what uses a device cannot be told that its end is gone,
and the requests beyond the end fail by themselves. The file system on the device is left alone too:
whether it shall grow is its owner's to say.
"""

from __future__ import annotations

import functools
import logging

import anyio
import anyio.to_thread

from fusefs.errors import VolumeError
from fusefs.host import Host
from pyscsi_init import BlockDevice, LogicalUnit

log = logging.getLogger("fusefs.worker")


class LoopGrowth:
    """Watches ``device``, and has the loop devices over ``file`` follow it."""

    def __init__(self, host: Host, device: BlockDevice, file: str) -> None:
        self._host = host
        self._device = device
        self._file = file
        self._size = device.size_bytes
        self._grown = anyio.Event()
        device.size_changed.append(self._size_changed)

    def _size_changed(self, size_bytes: int) -> None:
        if size_bytes > self._size:
            self.look()
        self._size = size_bytes

    def look(self) -> None:
        """Compare loop device and file soon."""
        self._grown.set()

    def catch_up(self, known_bytes: int) -> None:
        """For a worker that follows on another, once its channel serves: tell all who watch the
        device of a size that is not the one which the kernel was told before."""
        self._size = known_bytes
        size_bytes = self._device.size_bytes
        if size_bytes != known_bytes:
            for notify in list(self._device.size_changed):
                notify(size_bytes)

    async def serve(self) -> None:
        """Follow until cancelled. What fails is logged: the next growth, or a command, tries again.

        Cancellation: a call under way goes on in its process and nobody waits for it.
        """
        while True:
            await self._grown.wait()
            self._grown = anyio.Event()
            follow = functools.partial(self._host.loop_follow, self._file)
            try:
                await anyio.to_thread.run_sync(follow, abandon_on_cancel=True)
            except (VolumeError, OSError) as error:
                log.warning("the loop device did not grow with the LUN: %s", error)


async def refreshed_size(device: BlockDevice) -> int:
    """The size of a device, asked for anew where somebody can be asked.

    Raises:
        IscsiError: the unit did not answer.
    """
    while not isinstance(device, LogicalUnit):
        inner = getattr(device, "inner", None)  # what stands in front of a unit has this name
        if inner is None:
            return device.size_bytes
        device = inner
    return await device.refresh_capacity()
