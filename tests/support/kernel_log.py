# SPDX-License-Identifier: Apache-2.0
"""What the kernel says about a block device: an I/O error that no process saw is still an error.

The page cache's writeback, a journal and a superblock are written by the kernel itself; when that
fails, the only word of it may be a line in the kernel's log. ``check`` fails the test for such a
line about one of its devices. Others' devices are on the same log and are not looked at; but a loop
device that was detached is soon somebody else's, so begin after the attach and check before the
detach.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .requirements import missing

KMSG = "/dev/kmsg"
TROUBLE = re.compile(
    r"error, dev |I/O error|lost async page write"
    r"|EXT4-fs (error|warning)|EXT4-fs \(\S+\): (failed|I/O)|JBD2: .*(rror|abort)|Aborting journal"
    r"|XFS \(\S+\): .*(rror|orruption|hut ?down)|BTRFS (error|critical)",
    re.IGNORECASE,
)
"""Counted when the line also names one of the test's devices."""
HARMLESS = re.compile(r"operation not supported error, dev")
"""A disk without an optional command; the kernel asks once and does it another way."""
HUNG = re.compile(r"INFO: task \S+ blocked for more than")
"""Counted always: such a line names a task, not a device."""


class KernelLog:
    """The kernel's log from the moment at which this object is made."""

    def __init__(self) -> None:
        try:
            self._descriptor = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            missing(f"{KMSG} cannot be read: {error.strerror}")
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def __enter__(self) -> KernelLog:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._descriptor)

    def lines(self) -> list[str]:
        """The messages since the last call (since the start, for the first)."""
        found: list[str] = []
        while True:
            try:
                record = os.read(self._descriptor, 8192)
            except BlockingIOError:
                return found
            except BrokenPipeError:
                found.append("(messages were lost: the kernel's buffer is full)")
                continue
            found.append(record.partition(b";")[2].partition(b"\n")[0].decode(errors="replace"))

    def trouble(self, *devices: str | Path) -> list[str]:
        """The messages since the last call that tell of an error of one of these devices (such as
        ``/dev/loop3``), and of any hung task."""
        names = "|".join(re.escape(Path(device).name) for device in devices)
        about = re.compile(rf"\b({names})(p\d+)?\b(?!\d)") if names else None
        return [
            line
            for line in self.lines()
            if HUNG.search(line)
            or (about and about.search(line) and TROUBLE.search(line) and not HARMLESS.search(line))
        ]

    def check(self, *devices: str | Path) -> None:
        """Fail the test for such a message."""
        if found := self.trouble(*devices):
            pytest.fail("the kernel reports:\n" + "\n".join(found), pytrace=False)


@contextlib.contextmanager
def quiet(devices: list[str]) -> Iterator[None]:
    """Fail if the kernel reports an error of ``devices`` during the block. The list may be filled
    inside the block, when the devices' names are known."""
    with KernelLog() as log:
        yield
        log.check(*devices)
