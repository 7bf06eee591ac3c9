# SPDX-License-Identifier: Apache-2.0
"""The FUSE mount of one volume, as its worker makes and removes it.

Each call runs in a thread: what it waits for may be a request to the loop that called.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

from fusefs.errors import DeviceBusy, HostError
from fusefs.host import Host

IN_USE_PATIENCE_S = 2.0
IN_USE_PAUSE_S = 0.05
"""The kernel closes the file of a detached loop device a moment after the detach."""


class PrivateMount:
    """The mount on ``directory``, which is ours alone."""

    def __init__(self, host: Host, directory: str) -> None:
        self._host = host
        self._directory = directory

    async def make(self, fuse: int, name: str) -> int:
        """Mount what the descriptor serves; the number of the connection."""
        number: int = await _in_thread(
            self._host.fuse_mount,
            fuse,
            self._directory,
            source=f"pyscsi-init:{name}",
            subtype="pyscsi-init",
            options=("default_permissions",),
        )
        return number

    async def remove(self, is_over: Callable[[], bool]) -> None:
        """Unmount, or return when ``is_over`` says that somebody else did.

        Raises:
            DeviceBusy: the file is in use, for longer than a moment; it is still mounted.
        """
        patience = anyio.current_time() + IN_USE_PATIENCE_S
        while not is_over():
            try:
                await _in_thread(self._host.umount, self._directory)
            except DeviceBusy as error:
                if anyio.current_time() > patience:
                    path = f"{self._directory}/lun"
                    raise DeviceBusy(path, users=error.users, reason="it is open") from error
                await anyio.sleep(IN_USE_PAUSE_S)
            else:
                return

    async def remove_lazily(self) -> None:
        """Unmount whoever uses it; never raises."""
        with anyio.CancelScope(shield=True), contextlib.suppress(HostError, DeviceBusy):
            await _in_thread(self._host.umount, self._directory, lazy=True)


async def _in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await anyio.to_thread.run_sync(functools.partial(function, *args, **kwargs))
