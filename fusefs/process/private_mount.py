# SPDX-License-Identifier: Apache-2.0
"""The FUSE mount of one volume, as its worker makes and removes it.

Each call runs in a thread: what it waits for may be a request to the loop that called.

Worker, successor and command need not stand in one mount namespace: in a cluster each is in a pod
of its own. A mount on the private directory is seen in one namespace alone, and that is how it is
meant; so each of them mounts what the descriptor serves in its own, and the kernel makes it one
file system (Linux 5.15).
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

from fusefs.errors import DeviceBusy, HostError, VolumeError
from fusefs.host import Host

log = logging.getLogger("fusefs.worker")

BLOCK_FILE = "lun"
IN_USE_PATIENCE_S = 2.0
IN_USE_PAUSE_S = 0.05
"""The kernel closes the file of a detached loop device a moment after the detach."""


def mount_here(host: Host, fuse: int, directory: str, name: str) -> int:
    """Mount what the descriptor serves on the private ``directory``, in the mount namespace of
    this process; where it is there already, nothing is done. The number of the connection. Blocks.

    Raises:
        VolumeError: it cannot be mounted.
    """
    number = host.fuse_connection_of(directory)
    if number is not None:
        return number
    host.make_private_unbindable(directory)
    return host.fuse_mount(
        fuse,
        directory,
        source=f"pyscsi-init:{name}",
        subtype="pyscsi-init",
        options=("default_permissions",),
    )


class PrivateMount:
    """The mount on ``directory``, which is ours alone."""

    def __init__(self, host: Host, directory: str) -> None:
        self._host = host
        self._directory = directory
        self.file = f"{directory}/{BLOCK_FILE}"

    async def make(self, fuse: int, name: str) -> int:
        """Mount what the descriptor serves; the number of the connection."""
        number: int = await _in_thread(mount_here, self._host, fuse, self._directory, name)
        return number

    async def make_for_a_successor(self, fuse: int, name: str) -> None:
        """The predecessor's mount serves as well; where it is in another namespace, have one here.
        Without it the loop device goes on, but does not grow. Never raises."""
        try:
            await _in_thread(mount_here, self._host, fuse, self._directory, name)
        except VolumeError as error:
            log.warning("the file is not to be seen here: %s", error)

    async def remove(self, is_over: Callable[[], bool]) -> None:
        """Unmount, or return when ``is_over`` says that somebody else did.

        Raises:
            DeviceBusy: the file is in use, for longer than a moment; it is still mounted.
        """
        patience = anyio.current_time() + IN_USE_PATIENCE_S
        while not is_over():
            try:
                await _in_thread(self._umount)
            except DeviceBusy as error:
                if anyio.current_time() > patience:
                    raise DeviceBusy(self.file, users=error.users, reason="it is open") from error
                await anyio.sleep(IN_USE_PAUSE_S)
            else:
                return

    def _umount(self) -> None:
        # The kernel refuses only for users in this namespace; a loop device may have another's.
        if any(device.backing_file == self.file for device in self._host.loop_list()):
            raise DeviceBusy(self.file, reason="a loop device is over it")
        if self._host.fuse_connection_of(self._directory) is not None:
            self._host.umount(self._directory)

    async def remove_lazily(self) -> None:
        """Unmount whoever uses it; never raises."""
        with anyio.CancelScope(shield=True), contextlib.suppress(HostError, DeviceBusy):
            await _in_thread(self._host.umount, self._directory, lazy=True)


async def _in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await anyio.to_thread.run_sync(functools.partial(function, *args, **kwargs))
