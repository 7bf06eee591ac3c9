# SPDX-License-Identifier: Apache-2.0
"""The synchronous face, for scripts: the same names without await.

    with pyscsi_init.blocking.open_lun("iscsi://10.0.0.5/iqn.2001-04.com.example:disk/1") as lun:
        data = lun.read(0, 4096)

An event loop runs in a thread of its own for as long as the block does; keepalive and recovery go
on between the calls. The calls may come from any thread, also several at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from .device import Buffer, Identity, LogicalUnit
from .device import open_lun as _open_lun
from .discovery import DiscoveredTarget
from .discovery import discover as _discover
from .names import Portal
from .secret import Chap, Secret
from .settings import Settings
from .transport import ScsiResult
from .url import IscsiUrl


class BlockingLogicalUnit:
    """A LUN; offsets and lengths in bytes. Errors are those of :class:`pyscsi_init.LogicalUnit`."""

    def __init__(self, portal: BlockingPortal, unit: LogicalUnit) -> None:
        self._portal = portal
        self._unit = unit

    @property
    def size_bytes(self) -> int:
        """The size now; it follows the target."""
        return self._unit.size_bytes

    @property
    def block_size(self) -> int:
        """Bytes of a logical block."""
        return self._unit.block_size

    @property
    def read_only(self) -> bool:
        """Writes are refused."""
        return self._unit.read_only

    @property
    def identity(self) -> Identity:
        """What the unit says of itself."""
        return self._unit.identity

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``."""
        return self._portal.call(self._unit.read, offset, length)

    def write(self, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """Write all of ``data``; with ``fua`` it is on stable storage on return."""
        self._portal.call(lambda: self._unit.write(offset, data, fua=fua))

    def flush(self) -> None:
        """All completed writes are on stable storage on return."""
        self._portal.call(self._unit.flush)

    def discard(self, offset: int, length: int) -> None:
        """The range is not needed any more."""
        self._portal.call(self._unit.discard, offset, length)

    def write_zeroes(self, offset: int, length: int) -> None:
        """The range reads as zeros on return."""
        self._portal.call(self._unit.write_zeroes, offset, length)

    def execute(self, cdb: bytes, *, data_out: Buffer = b"", data_in_length: int = 0) -> ScsiResult:
        """Send any CDB."""
        return self._portal.call(
            lambda: self._unit.execute(cdb, data_out=data_out, data_in_length=data_in_length)
        )


@contextlib.contextmanager
def open_lun(
    url: str | IscsiUrl,
    *,
    chap: Chap | Secret | None = None,
    settings: Settings | None = None,
    backend: str = "asyncio",
    **options: Any,
) -> Iterator[BlockingLogicalUnit]:
    """Open a LUN for the block; see :func:`pyscsi_init.open_lun` for arguments and errors."""
    with (
        start_blocking_portal(backend) as portal,
        portal.wrap_async_context_manager(
            _open_lun(url, chap=chap, settings=settings, **options)
        ) as unit,
    ):
        yield BlockingLogicalUnit(portal, unit)


def discover(
    portal: Portal | str, *, chap: Chap | None = None, settings: Settings | None = None
) -> list[DiscoveredTarget]:
    """The targets of a portal; see :func:`pyscsi_init.discover`."""
    with start_blocking_portal() as loop:
        return loop.call(lambda: _discover(portal, chap=chap, settings=settings))
