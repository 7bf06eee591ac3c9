# SPDX-License-Identifier: Apache-2.0
"""The real worker over a RAM disk in the place of a LUN: everything but the session."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fusefs.process import worker
from fusefs.process.messages import StartDocument
from pyscsi_init import BlockDevice, RamDevice
from pyscsi_init.transport import Reactor


@asynccontextmanager
async def open_ram(_document: StartDocument, _reactor: Reactor) -> AsyncIterator[BlockDevice]:
    async with RamDevice(8 << 20) as device:
        yield device


if __name__ == "__main__":
    sys.exit(worker.main(open_ram))
