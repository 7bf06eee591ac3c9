# SPDX-License-Identifier: Apache-2.0
"""A memory cgroup of a test's own (cgroup v1): what is in it gets no more memory than its limit."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from .requirements import KERNEL_LACKS, missing

ROOT = Path("/sys/fs/cgroup/memory")
_numbers = itertools.count()


class MemoryCgroup:
    """``with MemoryCgroup() as group:`` makes it; at the end what is still in it is moved out."""

    def __init__(self, name: str = "") -> None:
        if not (ROOT / "memory.limit_in_bytes").exists():
            missing(f"{KERNEL_LACKS} has no memory cgroup v1 at {ROOT}")
        if os.geteuid() != 0:
            missing("memory cgroups need root")
        self.path = ROOT / f"test-{os.getpid()}-{next(_numbers)}{name}"

    def __enter__(self) -> MemoryCgroup:
        self.path.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        deadline = time.monotonic() + 10
        while self.path.exists():
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    (ROOT / "cgroup.procs").write_text(str(pid))
            with contextlib.suppress(OSError):
                self.path.rmdir()
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.path} cannot be removed")
            time.sleep(0.01)

    def _read(self, name: str) -> int:
        return int((self.path / f"memory.{name}").read_text())

    def pids(self) -> set[int]:
        """The processes in it."""
        return {int(line) for line in (self.path / "cgroup.procs").read_text().split()}

    @property
    def usage_bytes(self) -> int:
        """Memory charged to it now, page cache included."""
        return self._read("usage_in_bytes")

    @property
    def failures(self) -> int:
        """How often its limit was in the way: 0 means that there was no pressure."""
        return self._read("failcnt")

    def limit(self, size_bytes: int) -> None:
        """From now on no more than that; what is more is reclaimed first."""
        (self.path / "memory.limit_in_bytes").write_text(str(size_bytes))

    def add(self, pid: int) -> None:
        """Move a process in. What it has already stays charged where it was."""
        (self.path / "cgroup.procs").write_text(str(pid))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside for the length of the block, and so is, for good, every
        process that it starts meanwhile."""
        thread = str(threading.get_native_id())
        before = next(
            line.split(":", 2)[2]
            for line in Path("/proc/thread-self/cgroup").read_text().splitlines()
            if line.split(":")[1] == "memory"
        )
        (self.path / "tasks").write_text(thread)
        try:
            yield
        finally:
            (ROOT / before.lstrip("/") / "tasks").write_text(thread)
