# SPDX-License-Identifier: Apache-2.0
"""Loops that nobody told anyio of: asyncio.run, uvloop.run, trio.run."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio

import pyscsi_init
from tests.support.python_target import MEBI, WAIT, TargetThread, make_target
from tests.support.requirements import require_module
from tests.support.waiting import until

Program = Callable[[], Coroutine[Any, Any, None]]


def on_uvloop(program: Program) -> None:
    require_module("uvloop")
    importlib.import_module("uvloop").run(program())


LOOPS = {
    "asyncio": lambda program: asyncio.run(program()),
    "asyncio-debug": lambda program: asyncio.run(program(), debug=True),
    "uvloop": on_uvloop,
    "trio": trio.run,
}


@pytest.mark.parametrize("run", LOOPS.values(), ids=LOOPS)
def test_a_unit_changes_and_is_lost_and_comes_back(run: Callable[[Program], None]) -> None:
    """The tasks that look at the unit, and at its first blocks after a write to them, begin in
    callbacks of the loop: there anyio knew the loop only where anyio.run had started it."""
    target = make_target()
    unit = target.luns[0]

    with TargetThread(target) as served:

        async def program() -> None:
            async with pyscsi_init.open_lun(served.url(), settings=WAIT) as lun:
                await lun.write(0, b"x" * 4096)  # what the disk is known by
                served.call(unit.grow, 32 * MEBI)
                assert await lun.read(0, 4096) == b"x" * 4096  # meets the unit attention
                await until(lambda: lun.size_bytes == 32 * MEBI, 20)
                served.call(target.drop_connections)
                await lun.write(0, b"y" * 4096)
                assert await lun.read(0, 4096) == b"y" * 4096
                assert lun.session.statistics.recoveries == 1

        run(program)
