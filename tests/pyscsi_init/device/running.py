# SPDX-License-Identifier: Apache-2.0
"""Requests under way on one unit of the Python target, without the layers above it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio

from pyscsi_init import Settings
from pyscsi_init.device.interface import BlockRequest, Operation
from pyscsi_init.device.scsi_block import ScsiBlockDevice
from pyscsi_init.scsi import Opcode
from pyscsi_init.testing import Target
from tests.support.python_target import PATIENCE, WAIT, make_target, opened, until

BLOCK = 512
SYNCS = {Opcode.SYNCHRONIZE_CACHE_10, Opcode.SYNCHRONIZE_CACHE_16}
FAR = 1 << 20
"""Beyond what is watched at the start."""


@contextlib.asynccontextmanager
async def device(
    target: Target | None = None, settings: Settings = WAIT, **facts: Any
) -> AsyncIterator[tuple[Target, ScsiBlockDevice]]:
    """A unit without the layers above it; ``facts`` replace what it said of itself."""
    target = target or make_target()
    async with opened(target, settings) as lun:
        unit = lun.unit
        if facts:
            head = bytes(await lun.read(0, 69632))
            unit = ScsiBlockDevice(
                lun.session,
                unit.lun,
                unit.what,
                replace(unit.facts, **facts),
                head,
                read_only=False,
            )
        with anyio.fail_after(4 * PATIENCE):
            yield target, unit


class Running:
    """A request under way."""

    def __init__(
        self, unit: ScsiBlockDevice, operation: Operation, offset: int, data: Any = None, **kw: Any
    ) -> None:
        self.times = 0
        length = kw.pop("length", 0 if data is None else len(data))
        self.request = BlockRequest(operation, offset, length, data, self._done, **kw)
        unit.submit(self.request)

    def _done(self, request: BlockRequest) -> None:
        self.times += 1

    async def error(self) -> Exception | None:
        await until(lambda: self.times)
        assert self.times == 1
        return self.request.error


async def settled(*running: Running) -> list[Exception | None]:
    return [await each.error() for each in running]
