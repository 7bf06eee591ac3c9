# SPDX-License-Identifier: Apache-2.0
"""The Python target beside the test: in the test's own loop, or in a thread for plain functions.

In the same loop a test can let the target misbehave between two steps of its own. Volumes are made
from plain functions, with an event loop per call, so for them the target needs a loop of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import anyio
import anyio.from_thread

import pyscsi_init
from pyscsi_init import LogicalUnit, Settings
from pyscsi_init.testing import Disk, RamDisk, Target, TargetServer, TargetSettings

from . import waiting

T = TypeVar("T")
IQN = "iqn.2026-11.example:faulty"
INITIATOR = "iqn.2026-11.example:tester"
KIBI, MEBI = 1 << 10, 1 << 20
WAIT = Settings(recovery_timeout=None, default_time2wait=0)
"""I/O waits for ever, and a new login begins at once."""
PATIENCE = 10.0
"""Seconds for what should take milliseconds: a test that hangs fails here."""


class RecordingDisk(RamDisk):
    """Remembers the writes in the order in which they reached the medium."""

    def __init__(self, size: int, **kw: Any) -> None:
        super().__init__(size, **kw)
        self.writes: list[tuple[int, bytes]] = []
        """Offset and first byte."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.writes.append((offset, bytes(data[:1])))
        super().write(offset, data)


def make_target(disk: Disk | None = None, *, chap: Any = None, **settings: Any) -> Target:
    """One target with one disk as LUN 0; it asks for no time between two logins."""
    settings.setdefault("default_time2wait", 0)
    return Target(
        IQN,
        luns={0: disk or RamDisk(16 * MEBI)},
        chap=chap,
        settings=TargetSettings(**settings),
    )


def url_of(address: object, lun: int = 0) -> str:
    """The URL of a LUN of the target."""
    return f"iscsi://{address}/{IQN}/{lun}"


@contextlib.asynccontextmanager
async def opened(
    target: Target, settings: Settings = WAIT, *, lun: int = 0, **kw: Any
) -> AsyncIterator[LogicalUnit]:
    """The target, served in this loop, and its LUN."""
    kw.setdefault("initiator_name", INITIATOR)
    async with (
        TargetServer([target]).running() as portal,
        pyscsi_init.open_lun(url_of(portal.address, lun), settings=settings, **kw) as unit,
    ):
        yield unit


async def until(condition: Callable[[], object]) -> None:
    """Return when it holds; fail where it does not come to hold."""
    await waiting.until(condition, PATIENCE)


class TargetThread:
    """``with TargetThread(target) as served:`` then connect to ``served.url()``."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.address = ""

    @contextlib.contextmanager
    def _served(self) -> Iterator[None]:
        server = TargetServer([self.target])
        with (
            anyio.from_thread.start_blocking_portal() as loop,
            loop.wrap_async_context_manager(server.running()) as portal,
        ):
            self._loop = loop
            self.address = portal.address
            yield

    def __enter__(self) -> TargetThread:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._served())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def url(self) -> str:
        """The URL of LUN 0."""
        return url_of(self.address)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a plain function in the target's loop: rules hold events of that loop."""
        return self._loop.call(function, *args)

    def wait(self, rule: Any, count: int = 1) -> None:
        """Return when a rule has caught ``count`` commands."""

        async def caught() -> None:
            with anyio.fail_after(PATIENCE):
                await rule.wait(count)

        self._loop.call(caught)
