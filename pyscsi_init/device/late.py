# SPDX-License-Identifier: Apache-2.0
"""A device whose inner device comes later: known by its size, holding requests until then.

For a process that takes over a disk whose target is away: what is asked in the meantime is held, as
a session holds requests while it recovers, or fails once somebody has had enough of waiting; the
inner device then gets what is held, in order. When it is there its ``submit`` is ours: nothing
stays between a request and the disk. A device may also turn out never to come: then everything
fails for good.
"""

from __future__ import annotations

from ..errors import TaskAborted
from .interface import BlockDevice, BlockRequest, Limits, check_range


class LateDevice(BlockDevice):
    """Stands for a device of these properties until :meth:`arrive`."""

    def __init__(
        self,
        *,
        size_bytes: int,
        block_size: int,
        physical_block_size: int = 0,
        read_only: bool = False,
        can_discard: bool = False,
        can_write_zeroes: bool = False,
        discard_zeroes: bool = False,
        any_alignment: bool = False,
        limits: Limits | None = None,
    ) -> None:
        super().__init__()
        self.inner: BlockDevice | None = None
        self.failure: Exception | None = None
        """What requests fail with at present; None while they are held, or served."""
        self._held: list[BlockRequest] = []
        self.size_bytes = size_bytes
        self.block_size = block_size
        self.physical_block_size = physical_block_size or block_size
        self.read_only = read_only
        self.can_discard = can_discard
        self.can_write_zeroes = can_write_zeroes
        self.discard_zeroes = discard_zeroes
        self.any_alignment = any_alignment
        self.limits = limits or Limits()

    @property
    def held(self) -> int:
        """Requests that wait for the device."""
        return len(self._held)

    def submit(self, request: BlockRequest) -> None:
        if self.inner is not None:
            # Whoever took this method before the device came, to save a look-up, still has it.
            self.inner.submit(request)
            return
        error = check_range(self, request) or self.failure
        if error is not None:
            request.complete(error)
        else:
            self._held.append(request)

    def cancel(self, request: BlockRequest) -> None:
        if request in self._held:
            self._held.remove(request)
            request.complete(TaskAborted("the request was cancelled before its device came"))
        elif self.inner is not None:
            self.inner.cancel(request)

    def fail(self, error: Exception) -> None:
        """Fail what is held, and what comes, with ``error``; until the device arrives, if ever."""
        self.failure = error
        held, self._held = self._held, []
        for request in held:
            request.complete(error)

    def arrive(self, device: BlockDevice) -> None:
        """The device is there. It belongs to whoever opened it; ``aclose`` does not close it."""
        self.inner = device
        self.failure = None
        self._take_over_properties(device)
        device.size_changed.append(self._inner_size_changed)
        # In the instance, before the method of the class: no call in between from here on.
        self.submit = device.submit  # type: ignore[method-assign]
        held, self._held = self._held, []
        for request in held:
            device.submit(request)

    def _take_over_properties(self, device: BlockDevice) -> None:
        changed = device.size_bytes != self.size_bytes
        self.size_bytes = device.size_bytes
        self.block_size = device.block_size
        self.physical_block_size = device.physical_block_size
        self.read_only = device.read_only
        self.can_discard = device.can_discard
        self.can_write_zeroes = device.can_write_zeroes
        self.discard_zeroes = device.discard_zeroes
        self.any_alignment = device.any_alignment
        self.limits = device.limits
        if changed:
            self._tell_size()

    def _inner_size_changed(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._tell_size()

    def _tell_size(self) -> None:
        for notify in list(self.size_changed):
            notify(self.size_bytes)

    async def aclose(self) -> None:
        """Fail what is held; what the inner device has is its own affair."""
        if self.inner is None:
            self.fail(self.failure or TaskAborted("the device was closed before it came"))
        elif self._inner_size_changed in self.inner.size_changed:
            self.inner.size_changed.remove(self._inner_size_changed)
