# SPDX-License-Identifier: Apache-2.0
"""The file of a trace: opened once in a process whatever number of sessions write it, of a bounded
size, and written by a thread, because a disk may take long and no event loop may wait for it.

A file that is there already is continued with a new section; one that is no trace is refused. When
it has become as long as it may, it is renamed to ``NAME.1`` in place of the one before, and begins
anew: the newest half at least is always there. What a killed process has left torn at its end is
cut off.

The memory that waits for the thread is bounded too. Where the file takes packets more slowly than
they come, some are left out, and the next one says how many bytes. A file that cannot be written
any more ends the trace, with a warning, and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import stat
import threading
from pathlib import Path

from ..errors import ConfigurationError
from .pcapng import is_pcapng, section, whole_blocks

log = logging.getLogger("pyscsi_init.trace")

MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Packets in memory for the thread; the rest is left out."""

CLOSE_PATIENCE_S = 5.0
_MOST_BLOCKS = 15
"""Of one write: less than 1 MiB, which is the shortest that a file may be made to end at."""
_SCAN_BYTES = 1 << 22
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK

_open_files: dict[Path, TraceFile] = {}
_lock = threading.Lock()


class TraceFile:
    """Blocks in, one file out; made by :func:`open_trace_file`."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.users = 0
        self.failed = False
        self._put = self._done = 0
        self._blocks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._descriptor, self._length = _open(path)
        try:
            self._begin_section(self._descriptor, "")
        except BaseException:
            os.close(self._descriptor)
            raise
        self._thread = threading.Thread(target=self._run, name="pdu-trace", daemon=True)
        self._thread.start()

    def put(self, block: bytes) -> bool:
        """Have a whole block written some time; False where it had to be left out."""
        if self.failed or self._put - self._done > MAX_WAITING_BYTES:
            return False
        self._put += len(block)
        self._blocks.put(block)
        return True

    def close(self) -> None:
        """Write what waits, in a bounded time, and close the file."""
        self._blocks.put(None)
        self._thread.join(CLOSE_PATIENCE_S)

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        last = False
        while not last:
            blocks = [self._blocks.get()]
            while (
                blocks[-1] is not None and len(blocks) < _MOST_BLOCKS and not self._blocks.empty()
            ):
                blocks.append(self._blocks.get())
            last = blocks[-1] is None
            data = b"".join(block for block in blocks if block is not None)
            if not self.failed:
                try:
                    self._write(data)
                except (OSError, ConfigurationError) as error:
                    self.failed = True
                    reason = getattr(error, "strerror", None) or error
                    log.warning("the trace %s ends: %s", self.path, reason)
            self._done += len(data)
        os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        if not data:
            return
        if self._length and self._length + len(data) > self.max_bytes:
            self._rotate()
        self._append(self._descriptor, data)

    def _append(self, descriptor: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = os.write(descriptor, view)
            self._length += count
            view = view[count:]

    def _begin_section(self, descriptor: int, comment: str) -> None:
        self._append(descriptor, section("pyscsi-init", f"process {os.getpid()}", comment))

    def _rotate(self) -> None:
        """Its place is taken by a new one before anything of the old one is given up."""
        older = self.path.with_name(self.path.name + ".1")
        self.path.replace(older)
        descriptor, self._length = _open(self.path)
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._begin_section(descriptor, f"what was before is in {older.name}")


def _open(path: Path) -> tuple[int, int]:
    """A descriptor that appends, and how long the file is; checked to be ours to write."""
    descriptor = os.open(path, _FLAGS, 0o600)
    try:
        status = os.fstat(descriptor)
        _require_regular(status, path)
        length = status.st_size
        if length:
            _require_pcapng(descriptor, path)
            length = _cut_torn_end(descriptor, length)
        # Whoever comes next may not take our last block for torn while it is written.
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, length


def _require_regular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(
            "trace file", str(path), "is not a regular file", "give another name"
        )


def _require_pcapng(descriptor: int, path: Path) -> None:
    if not is_pcapng(os.pread(descriptor, 12, 0)):
        raise ConfigurationError(
            "trace file", str(path), "holds something else", "give a name that is free"
        )


def _cut_torn_end(descriptor: int, length: int) -> int:
    """Where the last whole block ends; what is behind it is cut off, unless it is being written."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return length
    start = 0
    while start < length:
        piece = os.pread(descriptor, _SCAN_BYTES, start)
        whole = whole_blocks(piece)
        if not whole:
            os.ftruncate(descriptor, start)
            break
        start += whole
    return start


def open_trace_file(path: str | os.PathLike[str], max_bytes: int) -> TraceFile:
    """The trace at ``path``, shared with whoever in this process has it open already; it may block.

    Raises:
        ConfigurationError: the file cannot be written, or is no trace.
    """
    place = Path(path).absolute()
    with _lock:
        file = _open_files.get(place)
        if file is None:
            try:
                file = _open_files[place] = TraceFile(place, max_bytes)
            except OSError as error:
                raise _unwritable(place, error) from error
        file.users += 1
        return file


def close_trace_file(file: TraceFile) -> None:
    """The counterpart of :func:`open_trace_file`; the last user's closes it. It may block."""
    with _lock:
        file.users -= 1
        if file.users:
            return
        del _open_files[file.path]
    file.close()


def check_trace_file(path: str | os.PathLike[str]) -> None:
    """Make sure that a trace can be written at ``path``. A file that was not there is not there
    afterwards: who asks may yet refuse for another reason.

    Raises:
        ConfigurationError: the file cannot be written, or is no trace.
    """
    place = Path(path).absolute()
    was_there = os.path.lexists(place)
    try:
        descriptor = _open(place)[0]
        try:
            if not was_there:
                _remove_unused(descriptor, place)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unwritable(place, error) from error


def _remove_unused(descriptor: int, place: Path) -> None:
    # Whoever writes to it holds a lock, so only a file of nobody's goes.
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(descriptor).st_size:
            place.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        "trace file", str(path), f"cannot be written ({error.strerror})", "give another name"
    )
