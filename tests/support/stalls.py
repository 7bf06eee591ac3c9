# SPDX-License-Identifier: Apache-2.0
"""How long I/O stands still: a prober on a block device, and the figures of many events.

The prober reads one block after the other, past every cache. The stall of an event is the time from
the event to the completion of the first read that was submitted after it: a read that the old
worker had answered already does not count.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

BLOCK = 4096
PAUSE_S = 0.002


@dataclass
class Figures:
    """Durations in seconds."""

    what: str
    seconds: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """The smallest duration that ``share`` of all do not exceed."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def __str__(self) -> str:
        if not self.seconds:
            return f"{self.what}: none"
        return (
            f"{self.what}: {len(self.seconds)} times, p50 {self.percentile(0.5) * 1000:.0f} ms, "
            f"p90 {self.percentile(0.9) * 1000:.0f} ms, p99 {self.percentile(0.99) * 1000:.0f} ms, "
            f"longest {max(self.seconds) * 1000:.0f} ms"
        )


class Prober:
    """Reads a device in a thread of its own; an error of a read is raised on exit."""

    def __init__(self, device: str) -> None:
        self._fd = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        self._size = os.lseek(self._fd, 0, os.SEEK_END)
        self._changed = threading.Condition()
        self._last = (0.0, 0.0)
        self._stopped = False
        self.error: OSError | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Prober:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped = True
        self._thread.join(60)
        os.close(self._fd)
        if error is None and self.error is not None:
            raise self.error

    def _run(self) -> None:
        buffer = mmap.mmap(-1, BLOCK)
        offset = 0
        while not self._stopped:
            began = time.monotonic()
            try:
                os.preadv(self._fd, [buffer], offset)
            except OSError as error:
                self.error = error
                return
            offset = (offset + BLOCK) % (self._size // BLOCK * BLOCK)
            with self._changed:
                self._last = (began, time.monotonic())
                self._changed.notify_all()
            time.sleep(PAUSE_S)

    def stall_since(self, event: float, timeout: float = 60.0) -> float:
        """Seconds from ``event`` (of time.monotonic) to the end of the first read begun after."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._last[0] >= event, timeout):
                raise AssertionError(f"no read came back within {timeout} s") from self.error
            return self._last[1] - event
