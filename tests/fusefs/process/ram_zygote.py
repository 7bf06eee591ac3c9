# SPDX-License-Identifier: Apache-2.0
"""A zygote whose workers serve memory in the place of a LUN: everything but the session.

The memory is a file beside the control socket, so that a successor finds what was written.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fusefs.process import birth, zygote
from fusefs.process.messages import StartDocument
from fusefs.process.takeover import Predecessor
from pyscsi_init import BlockDevice, RamDevice
from pyscsi_init.device import BlockRequest, Operation
from pyscsi_init.errors import ConnectError, IdentityMismatch
from pyscsi_init.transport import Reactor

SIZE = 8 << 20


class FileDevice(RamDevice):
    """A RamDevice that also writes a file through, and begins with what is in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(SIZE)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, SIZE)
        self._view[:] = os.pread(self._file, SIZE, 0)

    def submit(self, request: BlockRequest) -> None:
        if request.operation is Operation.WRITE:
            assert request.buffer is not None
            os.pwrite(self._file, request.buffer, request.offset)
        super().submit(request)


@asynccontextmanager
async def open_file(
    document: StartDocument, _reactor: Reactor, predecessor: Predecessor | None
) -> AsyncIterator[BlockDevice]:
    """``away`` and ``swapped`` beside the file say what became of the LUN since the attach."""
    directory = Path(document.directory)
    if predecessor is not None and (directory / "away").exists():
        raise ConnectError("no target")
    if predecessor is not None and (directory / "swapped").exists():
        raise IdentityMismatch("another LUN")
    if predecessor is not None and (directory / "broken").exists():
        raise RuntimeError("a fault of ours")
    async with FileDevice(directory / "disk") as device:
        yield device


if __name__ == "__main__":
    zygote.main(functools.partial(birth.main, opener=open_file))
