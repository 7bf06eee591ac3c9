# SPDX-License-Identifier: Apache-2.0
"""Fixtures for who tests with a target: ``pytest_plugins = ["pyscsi_init.testing.pytest_plugin"]``.

They run on the event loop of the test, whichever anyio's pytest plugin gives it. pytest is not
among the dependencies of this package: who loads a plugin of it has it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .disk import RamDisk
from .scripted import ScriptedTarget
from .server import TargetServer
from .target import Target

NAME = "iqn.2024-01.example:disk"
SIZE = 64 << 20


class ServedTarget:
    """An honest target that can be logged in to."""

    def __init__(self, target: Target, server: TargetServer) -> None:
        self.target = target
        """Its ``luns``, ``faults`` and ``counters``."""
        self.server = server

    def url(self, lun: int = 0) -> str:
        """The URL of a LUN."""
        return f"iscsi://{self.server.portals[0].address}/{self.target.name}/{lun}"


@pytest.fixture
async def python_target() -> AsyncIterator[ServedTarget]:
    """An honest target with a disk of 64 MiB in memory as LUN 0, on a free port of 127.0.0.1."""
    target = Target(NAME, luns={0: RamDisk(SIZE)})
    server = TargetServer([target])
    async with server.running():
        yield ServedTarget(target, server)


@pytest.fixture
async def scripted_target() -> AsyncIterator[ScriptedTarget]:
    """A target that does what the test says, on a free port of 127.0.0.1; the test fails where the
    initiator broke a rule."""
    async with ScriptedTarget().running() as target:
        yield target
