# SPDX-License-Identifier: Apache-2.0
"""The guards: never on an event loop's thread, never for ever."""

from __future__ import annotations

import threading

import anyio
import pytest

from fusefs.errors import Timeout
from fusefs.host import FakeHost, LinuxHost
from fusefs.host.blocking import bounded, running_loop


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("host", [LinuxHost(), FakeHost()], ids=["linux", "fake"])
def test_a_blocking_method_refuses_the_thread_of_an_event_loop(
    backend: str, host: LinuxHost | FakeHost
) -> None:
    async def main() -> None:
        assert running_loop() == backend
        with pytest.raises(RuntimeError, match=f"on the {backend} thread"):
            host.umount("/nowhere/at/all")

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_worker_thread_of_an_event_loop_may_block(backend: str) -> None:
    async def main() -> bool:
        return await anyio.to_thread.run_sync(lambda: LinuxHost().umount("/nowhere/at/all"))

    assert anyio.run(main, backend=backend) is False


def test_every_method_of_the_real_host_that_may_block_is_guarded() -> None:
    never_blocks = {
        "loop_list",
        "mounts",
        "open_fuse",
        "fuse_connection_of",
        "fuse_connections",
        "fuse_abort",
        "protect_process",
        "give_back_memory",
        "process_group_command",
        "own_mounts_command",
        "ends_as_a_whole",
    }
    for name in LinuxHost.__abstractmethods__ | set(vars(LinuxHost)):
        method = vars(LinuxHost).get(name)
        if callable(method) and not name.startswith("_"):
            assert hasattr(method, "__wrapped__") == (name not in never_blocks), name


def test_bounded_passes_results_and_errors_on() -> None:
    assert bounded("adding", 5, lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        bounded("dividing", 5, lambda: 1 // 0)


def test_bounded_gives_up_and_says_what_on() -> None:
    release = threading.Event()
    with pytest.raises(Timeout, match=r"waiting took longer than 0\.01 s; abort") as caught:
        bounded("waiting", 0.01, release.wait)
    assert caught.value.timeout_s == 0.01
    release.set()


def test_what_is_done_too_late_is_undone() -> None:
    release, undone = threading.Event(), threading.Event()
    results: list[str] = []

    def work() -> str:
        release.wait(30)
        return "deed"

    def undo(result: str) -> None:
        results.append(result)
        undone.set()

    with pytest.raises(Timeout):
        bounded("working", 0.01, work, undo=undo)
    assert results == []
    release.set()
    assert undone.wait(30)
    assert results == ["deed"]
    assert bounded("working", 30, work, undo=undo) == "deed"  # in time: nothing to undo
    assert results == ["deed"]
