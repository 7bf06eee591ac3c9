# SPDX-License-Identifier: Apache-2.0
"""The locks hold between tasks and processes, and end with their holder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from fusefs.errors import OperationInProgress
from fusefs.volume.locks import file_lock

pytestmark = pytest.mark.anyio

HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def start_holder(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


async def test_a_second_holder_is_refused_and_then_let_in(tmp_path: Path) -> None:
    path = tmp_path / "v.lock"
    async with file_lock(path, "v", 0):
        with pytest.raises(OperationInProgress) as refused:
            async with file_lock(path, "v", 0):
                pytest.fail("two hold one lock")
        assert refused.value.name == "v"
    async with file_lock(path, "v", 0):
        pass


async def test_it_waits_for_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "v.lock"
    order: list[str] = []

    async def second() -> None:
        async with file_lock(path, "v", 60):
            order.append("second")

    async with anyio.create_task_group() as group, file_lock(path, "v", 0):
        group.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        order.append("first")
    assert order == ["first", "second"]


async def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "v.lock"
    holder = start_holder(path)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OperationInProgress):
            async with file_lock(path, "v", 0):
                pytest.fail("two hold one lock")
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    async with file_lock(path, "v", 0):
        pass


async def test_an_error_inside_releases(tmp_path: Path) -> None:
    path = tmp_path / "v.lock"
    with pytest.raises(RuntimeError, match="inside"):
        async with file_lock(path, "v", 0):
            raise RuntimeError("inside")
    async with file_lock(path, "v", 0):
        pass
