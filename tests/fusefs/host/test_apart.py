# SPDX-License-Identifier: Apache-2.0
"""A call in a forked child: what it has, how it ends, and that it is gone afterwards."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from fusefs.errors import CallFailed, HostError, Timeout
from fusefs.host.apart import apart
from tests.support import processes
from tests.support.mounted_file import eventually


def test_it_happens_in_another_process_without_our_descriptors(tmp_path: Path) -> None:
    found = tmp_path / "found"
    ours = os.open(tmp_path, os.O_RDONLY)

    def look() -> None:
        open_ones = [fd for fd in range(256) if os.path.exists(f"/proc/self/fd/{fd}")]
        found.write_text(f"{os.getpid()} {open_ones}")

    try:
        apart("looking", "here", 10, look)
    finally:
        os.close(ours)
    pid, _, descriptors = found.read_text().partition(" ")
    assert int(pid) != os.getpid()
    assert descriptors == "[]"
    assert int(pid) not in processes.children()


def test_an_error_comes_back_with_its_number() -> None:
    def fail() -> None:
        raise PermissionError(errno.EPERM, "no")

    with pytest.raises(CallFailed, match="looking there") as caught:
        apart("looking", "there", 10, fail)
    assert caught.value.errno == errno.EPERM


@pytest.mark.parametrize("how", ["exception", "signal"])
def test_another_end_is_told(how: str) -> None:
    def fail() -> None:
        if how == "signal":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError

    with pytest.raises(HostError, match="255" if how == "exception" else "-9"):
        apart("looking", "there", 10, fail)


def test_one_that_does_not_end_is_ended() -> None:
    before = processes.children()
    with pytest.raises(Timeout):
        apart("waiting", "there", 0.05, lambda: time.sleep(100))
    eventually(lambda: processes.children() <= before)
