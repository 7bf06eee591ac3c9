# SPDX-License-Identifier: Apache-2.0
"""Processes are found, waited for and ended, each by its pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.support import processes

SLEEP = [sys.executable, "-c", "import sys; sys.stdin.read()"]


def test_end_kills_and_reaps() -> None:
    child = subprocess.Popen(SLEEP, stdin=subprocess.PIPE)
    assert child.pid in processes.children()
    assert processes.is_alive(child.pid)
    assert not processes.wait_exit(child.pid, 0)
    processes.end(child.pid)
    assert not processes.is_alive(child.pid)
    assert child.pid not in processes.children()
    child.wait()
    assert child.stdin is not None
    child.stdin.close()
    processes.end(child.pid)  # gone already: nothing happens


def test_a_marked_process_is_found_under_any_parent() -> None:
    mark = processes.mark_session()
    with subprocess.Popen(SLEEP, stdin=subprocess.PIPE) as child:
        assert child.pid in processes.marked_processes(mark)
        assert child.pid not in processes.marked_processes("another")
    assert os.getpid() not in processes.marked_processes(mark)


def test_a_signal_that_does_not_end_it_is_told() -> None:
    ignore = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"{ignore}; print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(TimeoutError, match="SIGTERM"):
            processes.end(child.pid, how=signal.SIGTERM, timeout=0.05)
        processes.end(child.pid)


def test_open_descriptors() -> None:
    with open("/dev/null", "rb") as file:
        assert processes.open_descriptors()[file.fileno()] == "/dev/null"
