# SPDX-License-Identifier: Apache-2.0
"""The synchronous face, for scripts: the same names without await.

    with pyscsi_init.blocking.open_lun("iscsi://10.0.0.5/iqn.2001-04.com.example:disk/1") as lun:
        data = lun.read(0, 4096)

An event loop runs in a thread of its own for as long as the block does; keepalive and recovery go
on between the calls. The calls may come from any thread, also several at once. They may not come
from a child that was forked meanwhile: the loop is not there, and the session is its parent's. A
call that an exception ends (KeyboardInterrupt) is cancelled.

A LUN that is still open when the interpreter ends is closed then, with a ResourceWarning.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from .buffers import Buffer
from .device import Extent, Fencing, Identity, Limits, LogicalUnit, UnitRecord
from .device import open_lun as _open_lun
from .discovery import DiscoveredTarget
from .discovery import discover as _discover
from .errors import ConfigurationError, LocalProtocolError, SessionFailed
from .names import Portal
from .secret import Chap, Secret
from .settings import Settings
from .transport import OPEN_TIMEOUT, Connector, ScsiResult
from .url import IscsiUrl

T = TypeVar("T")

BACKENDS = ("asyncio", "trio")


class BlockingLogicalUnit:
    """A LUN; offsets and lengths in bytes. Errors are those of :class:`pyscsi_init.LogicalUnit`.

    Used after its block, it raises SessionFailed; in a forked child, LocalProtocolError.
    """

    def __init__(self, portal: BlockingPortal, unit: LogicalUnit) -> None:
        self._portal = portal
        self._unit = unit
        self._pid = os.getpid()
        self._closed = False

    @property
    def size_bytes(self) -> int:
        """The size now; it follows the target."""
        return self._unit.size_bytes

    @property
    def block_size(self) -> int:
        """Bytes of a logical block."""
        return self._unit.block_size

    @property
    def physical_block_size(self) -> int:
        """Bytes of a physical block."""
        return self._unit.physical_block_size

    @property
    def read_only(self) -> bool:
        """Writes are refused."""
        return self._unit.read_only

    @property
    def can_discard(self) -> bool:
        """``discard`` does something."""
        return self._unit.can_discard

    @property
    def limits(self) -> Limits:
        """What the unit takes in one request, and likes."""
        return self._unit.limits

    @property
    def identity(self) -> Identity:
        """What the unit says of itself."""
        return self._unit.identity

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``."""
        return self.call(lambda unit: unit.read(offset, length))

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill ``buffer`` from ``offset``."""
        self.call(lambda unit: unit.read_into(offset, buffer))

    def write(self, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """Write all of ``data``; with ``fua`` it is on stable storage on return."""
        self.call(lambda unit: unit.write(offset, data, fua=fua))

    def flush(self) -> None:
        """All completed writes are on stable storage on return."""
        self.call(LogicalUnit.flush)

    def discard(self, offset: int, length: int) -> None:
        """The range is not needed any more."""
        self.call(lambda unit: unit.discard(offset, length))

    def write_zeroes(self, offset: int, length: int, *, fua: bool = False) -> None:
        """The range reads as zeros on return; with ``fua`` that is on stable storage."""
        self.call(lambda unit: unit.write_zeroes(offset, length, fua=fua))

    def compare_and_write(
        self, offset: int, expected: Buffer, data: Buffer, *, fua: bool = False
    ) -> None:
        """Write ``data`` if the blocks hold ``expected``, in one step."""
        self.call(lambda unit: unit.compare_and_write(offset, expected, data, fua=fua))

    def verify(self, offset: int, length: int) -> None:
        """Have the unit read its medium, without moving the data."""
        self.call(lambda unit: unit.verify(offset, length))

    def extents(self, offset: int, length: int) -> list[Extent]:
        """Which parts of a range have storage behind them."""
        return self.call(lambda unit: unit.extents(offset, length))

    def execute(
        self,
        cdb: bytes,
        *,
        data_out: Buffer = b"",
        data_in_length: int = 0,
        seconds: float | None = None,
    ) -> ScsiResult:
        """Send any CDB."""
        return self.call(
            lambda unit: unit.execute(
                cdb, data_out=data_out, data_in_length=data_in_length, seconds=seconds
            )
        )

    def call(self, function: Callable[[LogicalUnit], Awaitable[T]]) -> T:
        """Have the loop await what ``function`` makes of the LogicalUnit, for all that has no
        method here: ``lun.call(lambda unit: unit.reservations.read_keys())``."""
        if os.getpid() != self._pid:
            raise LocalProtocolError(
                f"{self!r} was opened by process {self._pid} and cannot be used in its child "
                f"{os.getpid()}: open it there after the fork"
            )
        if self._closed:
            raise self._after_end()
        try:
            future = self._portal.start_task_soon(function, self._unit)
        except RuntimeError:
            if self._closed:  # meanwhile
                raise self._after_end() from None
            raise
        try:
            return future.result()
        except CancelledError:
            raise self._after_end() from None
        except BaseException:
            future.cancel()
            raise

    def _after_end(self) -> SessionFailed:
        return SessionFailed(f"{self!r} is closed: use it inside the `with` block of open_lun")

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._unit)[1:]}"


_open: dict[contextlib.ExitStack, BlockingLogicalUnit] = {}
_of_the_parent: list[contextlib.ExitStack] = []
"""What a forked child found open: to close it would wait for a thread that only the parent has."""


@contextlib.contextmanager
def open_lun(
    url: str | IscsiUrl,
    *,
    chap: Chap | Secret | None = None,
    settings: Settings | None = None,
    backend: str = "asyncio",
    initiator_name: str | None = None,
    isid: bytes | None = None,
    read_only: bool = False,
    open_timeout: float = OPEN_TIMEOUT,
    predecessor: UnitRecord | None = None,
    unknown_outcome: bool = False,
    fencing: Fencing | None = None,
    connector: Connector | None = None,
) -> Iterator[BlockingLogicalUnit]:
    """Open a LUN for the block; see :func:`pyscsi_init.open_lun` for arguments and errors.

    ``backend`` is the event loop that runs in the thread: "asyncio" or "trio".
    """
    opening = _open_lun(
        url,
        chap=chap,
        settings=settings,
        initiator_name=initiator_name,
        isid=isid,
        read_only=read_only,
        open_timeout=open_timeout,
        predecessor=predecessor,
        unknown_outcome=unknown_outcome,
        fencing=fencing,
        connector=connector,
    )
    with contextlib.ExitStack() as stack:
        portal = stack.enter_context(_EventLoop(backend))
        unit = stack.enter_context(portal.wrap_async_context_manager(opening))
        _open[stack] = lun = BlockingLogicalUnit(portal, unit)
        try:
            yield lun
        finally:
            _ended(stack)


def discover(
    portal: Portal | str,
    *,
    chap: Chap | None = None,
    settings: Settings | None = None,
    initiator_name: str | None = None,
    connector: Connector | None = None,
    backend: str = "asyncio",
) -> list[DiscoveredTarget]:
    """The targets of a portal; see :func:`pyscsi_init.discover`."""
    with _EventLoop(backend) as loop:
        return loop.call(
            lambda: _discover(
                portal,
                chap=chap,
                settings=settings,
                initiator_name=initiator_name,
                connector=connector,
            )
        )


class _EventLoop:
    """A loop in a thread of its own, for the length of a block. A class, not a generator: one that
    was left behind by a fork would wait for its thread when it is collected."""

    def __init__(self, backend: str) -> None:
        if backend not in BACKENDS:
            raise ConfigurationError("backend", backend, f"is none of {', '.join(BACKENDS)}")
        self._backend = backend
        self._started: Future[BlockingPortal] = Future()
        # A daemon: the interpreter does not wait for it before _close_what_is_open had its turn.
        self._thread = threading.Thread(target=self._run, name="pyscsi_init", daemon=True)

    def _run(self) -> None:
        try:
            anyio.run(self._serve, backend=self._backend)
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)

    async def _serve(self) -> None:
        async with BlockingPortal() as portal:
            self._started.set_result(portal)
            await portal.sleep_until_stopped()

    def __enter__(self) -> BlockingPortal:
        self._thread.start()
        return self._started.result()

    def __exit__(self, kind: object, *rest: object) -> None:
        portal = self._started.result()
        with contextlib.suppress(RuntimeError):  # it has ended
            portal.call(portal.stop, kind is not None)
        self._thread.join()


def _ended(stack: contextlib.ExitStack) -> None:
    lun = _open.pop(stack, None)
    if lun is None:
        return
    lun._closed = True
    if lun._pid != os.getpid():
        _of_the_parent.append(stack.pop_all())


@atexit.register
def _close_what_is_open() -> None:
    # Before the threads of the loops are stopped: their blocks would wait for them for ever.
    for stack, lun in list(_open.items()):
        if lun._pid == os.getpid():
            warnings.warn(f"{lun!r} is still open: leave its block", ResourceWarning, stacklevel=1)
        _ended(stack)
        with contextlib.suppress(Exception):
            stack.pop_all().close()  # nobody else ends it at the same time
