# SPDX-License-Identifier: Apache-2.0
"""Faults under the backing file of a real server: writes and reads held back, delayed or lost.

The shim ``slow_pwrite.c`` is built with the system's compiler when a test asks for it, and loaded
into the server with LD_PRELOAD. Orders go through a shared memory file, so a test says "hold",
waits until the write is really held, does what it wants to do meanwhile, and says "release".
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import time
from pathlib import Path

from .requirements import require

SOURCE = Path(__file__).with_name("slow_pwrite.c")
FIELDS = ("start", "end", "hold", "delay", "drop", "skip", "held", "passed", "only")
FLAGS = ("-O2", "-Wall", "-Werror", "-shared", "-fPIC")
WRITES, READS = 1, 2


class BackingFault:
    """Orders to the shim for one backing file; give ``environment`` to the server's process."""

    def __init__(self, directory: Path, backing: Path) -> None:
        self.library = directory / "slow_pwrite.so"
        orders = directory / f"orders-{backing.name}"
        if not self.library.exists():
            compiler = require("gcc")
            subprocess.run(
                [compiler, *FLAGS, "-o", str(self.library), str(SOURCE), "-ldl"],
                check=True,
                timeout=60,
            )
        orders.write_bytes(bytes(8 * len(FIELDS)))
        descriptor = os.open(orders, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._memory = mmap.mmap(descriptor, 8 * len(FIELDS))
        finally:
            os.close(descriptor)
        self.environment = {
            "LD_PRELOAD": str(self.library),
            "FAULT_ORDERS": str(orders),
            "FAULT_BACKING": str(backing),
        }

    def _get(self, field: str) -> int:
        (value,) = struct.unpack_from("=Q", self._memory, 8 * FIELDS.index(field))
        return int(value)

    def _set(self, **values: int) -> None:
        for field, value in values.items():
            struct.pack_into("=Q", self._memory, 8 * FIELDS.index(field), value)

    def hold(self, start: int, end: int, *, kind: int = WRITES, count: int = 0) -> None:
        """From now on calls that touch ``start..end`` wait until :meth:`release`; with ``count``
        only that many, and those that come later overtake them."""
        self._set(start=start, end=end, only=self.held + count if count else 0, hold=kind)

    def delay(self, start: int, end: int, milliseconds: int) -> None:
        """From now on calls that touch ``start..end`` take that much longer."""
        self._set(start=start, end=end, delay=milliseconds)

    def lose_writes(self, start: int, end: int, *, count: int = 1, after: int = 0) -> None:
        """``count`` writes that touch ``start..end``, after ``after`` more of them, are answered
        with success and never done."""
        self._set(start=start, end=end, skip=after, drop=count)

    def release(self) -> None:
        """No faults from now on; what was held goes through."""
        self._set(hold=0, delay=0, drop=0, skip=0, only=0)

    @property
    def held(self) -> int:
        """Calls that began to wait, since the start."""
        return self._get("held")

    @property
    def passed(self) -> int:
        """Calls in the chosen range that are done, since the start."""
        return self._get("passed")

    @property
    def still_to_lose(self) -> int:
        """How many of the writes ordered lost are not lost yet."""
        return self._get("drop")

    def _wait(self, field: str, count: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self._get(field) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._get(field)} calls {field}, {count} expected")
            time.sleep(0.001)

    def wait_held(self, count: int = 1, timeout: float = 10.0) -> None:
        """Block until that many calls (since the start) began to wait."""
        self._wait("held", count, timeout)

    def wait_passed(self, count: int = 1, timeout: float = 10.0) -> None:
        """Block until that many calls in the range (since the start) are done."""
        self._wait("passed", count, timeout)

    def close(self) -> None:
        """Let everything go and unmap the orders."""
        self.release()
        self._memory.close()
