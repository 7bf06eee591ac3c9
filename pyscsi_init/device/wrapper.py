# SPDX-License-Identifier: Apache-2.0
"""What every device that stands on another device has in common.

A wrapper reads the inner device's properties at the moment they are asked for, because a LUN may
learn new limits or a new size after a reconnect; it forwards ``size_changed`` and closes the inner
device when it is closed itself. What a wrapper does to requests is its own affair.
"""

from __future__ import annotations

from .interface import BlockDevice, BlockRequest, Limits


class WrappedDevice(BlockDevice):
    """A block device in front of ``inner``; as it stands it changes nothing."""

    def __init__(self, inner: BlockDevice) -> None:
        super().__init__()
        self.inner = inner
        inner.size_changed.append(self._inner_size_changed)

    # The interface declares plain attributes; a wrapper may only show the inner device's.

    @property
    def size_bytes(self) -> int:  # type: ignore[override]
        return self.inner.size_bytes

    @property
    def block_size(self) -> int:  # type: ignore[override]
        return self.inner.block_size

    @property
    def physical_block_size(self) -> int:  # type: ignore[override]
        return self.inner.physical_block_size

    @property
    def read_only(self) -> bool:  # type: ignore[override]
        return self.inner.read_only

    @property
    def can_discard(self) -> bool:  # type: ignore[override]
        return self.inner.can_discard

    @property
    def can_write_zeroes(self) -> bool:  # type: ignore[override]
        return self.inner.can_write_zeroes

    @property
    def discard_zeroes(self) -> bool:  # type: ignore[override]
        return self.inner.discard_zeroes

    @property
    def any_alignment(self) -> bool:  # type: ignore[override]
        return self.inner.any_alignment

    @property
    def limits(self) -> Limits:  # type: ignore[override]
        return self.inner.limits

    def submit(self, request: BlockRequest) -> None:
        self.inner.submit(request)

    def cancel(self, request: BlockRequest) -> None:
        self.inner.cancel(request)

    async def aclose(self) -> None:
        """Close the inner device too."""
        if self._inner_size_changed in self.inner.size_changed:
            self.inner.size_changed.remove(self._inner_size_changed)
        await self.inner.aclose()

    def _inner_size_changed(self, size_bytes: int) -> None:
        for notify in list(self.size_changed):
            notify(size_bytes)
