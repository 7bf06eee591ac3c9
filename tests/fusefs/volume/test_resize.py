# SPDX-License-Identifier: Apache-2.0
"""Growing a volume over a fake host: what is done in which order, what is refused, and when again.

On a real target: tests/e2e/test_resize_on_tgt.py.
"""

from __future__ import annotations

import os

import pytest

from fusefs.errors import (
    AlreadyAttached,
    CommandFailed,
    HostError,
    LoopFailed,
    NoSuchVolume,
    OperationInProgress,
    VolumeError,
    WorkerFailed,
)
from fusefs.volume.hostcalls import host_call
from fusefs.volume.locks import file_lock
from pyscsi_init.errors import CapacityShrunk, NotReady
from tests.fusefs.volume.bench import Bench
from tests.fusefs.volume.stand_in_zygote import SIZE

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

TWICE = f"data-size-{2 * SIZE}"
STEPS = ["loop_set_capacity", "grow_filesystem"]


async def attached(bench: Bench, name: str, **spec: object) -> None:
    await bench.manager.attach(bench.spec(name, **spec))
    bench.host.actions.clear()


async def mounted(bench: Bench, name: str, **spec: object) -> None:
    bench.format(name)
    await bench.manager.mount(bench.spec(name, **spec), bench.mountpoint)
    bench.host.actions.clear()


def has_grown(bench: Bench, name: str = TWICE) -> None:
    bench.host.content(bench.file(name)).size_bytes = 2 * SIZE


async def test_loop_device_then_filesystem(bench: Bench) -> None:
    await mounted(bench, TWICE)
    has_grown(bench)
    steps: list[str] = []
    report = await bench.manager.resize(TWICE, steps.append)
    assert bench.host.steps == STEPS
    assert (report.old_size_bytes, report.size_bytes, report.grown) == (SIZE, 2 * SIZE, True)
    assert (report.mountpoint, report.fstype) == (str(bench.mountpoint), "ext4")
    assert [word in step for word, step in zip(("LUN", "loop", "ext4"), steps, strict=True)]
    state = bench.state(TWICE)
    assert state is not None
    assert state.loop["size_bytes"] == state.facts["size_bytes"] == 2 * SIZE
    assert state.facts["identity"]["size_bytes"] == 2 * SIZE
    await bench.manager.umount(TWICE)
    bench.assert_nothing_left()


async def test_a_volume_that_is_not_mounted(bench: Bench) -> None:
    await attached(bench, TWICE)
    has_grown(bench)
    report = await bench.manager.resize(TWICE)
    assert bench.host.steps == ["loop_set_capacity"]
    assert (report.grown, report.mountpoint, report.fstype) == (True, "", "")


async def test_what_has_not_grown_is_left_alone(bench: Bench) -> None:
    await attached(bench, "data")
    report = await bench.manager.resize("data")
    assert bench.host.steps == []
    assert (report.old_size_bytes, report.size_bytes, report.grown) == (SIZE, SIZE, False)


async def test_a_filesystem_that_stayed_behind_is_grown_later(bench: Bench) -> None:
    """The loop device is as large as the LUN already: it grew by itself, or by a first attempt."""
    await mounted(bench, TWICE)
    has_grown(bench)
    bench.host.fail_at("grow_filesystem", CommandFailed(["resize2fs"], exit_status=1))
    with pytest.raises(CommandFailed):
        await bench.manager.resize(TWICE)
    assert bench.host.steps[:1] == STEPS[:1]
    bench.host.actions.clear()
    await bench.manager.resize(TWICE)
    assert bench.host.steps == ["grow_filesystem"]
    assert (await bench.manager.get(TWICE)).state == "mounted"


async def test_a_read_only_volume(bench: Bench) -> None:
    await mounted(bench, TWICE, read_only=True)
    has_grown(bench)
    report = await bench.manager.resize(TWICE)
    assert bench.host.steps == ["loop_set_capacity"]
    assert "read-only" in report.note


async def test_a_lun_that_shrank_is_refused(bench: Bench) -> None:
    name = f"data-size-{SIZE // 2}"
    await mounted(bench, name)
    with pytest.raises(CapacityShrunk, match="never made smaller") as refused:
        await bench.manager.resize(name)
    assert f"{SIZE // 2} bytes" in str(refused.value)
    assert bench.host.steps == []
    assert (await bench.manager.get(name)).state == "mounted"


async def test_who_cannot_be_asked(bench: Bench) -> None:
    with pytest.raises(NoSuchVolume):
        await bench.manager.resize("data")
    await attached(bench, "away")
    with pytest.raises(WorkerFailed, match="its target is away"):
        await bench.manager.resize("away")
    await attached(bench, "mute")
    with pytest.raises(NotReady):
        await bench.manager.resize("mute")
    await attached(bench, "data")
    await bench.kill_workers()
    with pytest.raises(WorkerFailed, match="is dead"):
        await bench.manager.resize("data")
    assert bench.host.steps == []


async def test_a_loop_device_that_does_not_follow(bench: Bench) -> None:
    await mounted(bench, TWICE)
    with pytest.raises(LoopFailed, match="try again"):
        await bench.manager.resize(TWICE)
    has_grown(bench)
    bench.host.fail_at("loop_set_capacity", HostError("no"))
    with pytest.raises(HostError, match="no"):
        await bench.manager.resize(TWICE)
    assert "grow_filesystem" not in bench.host.steps
    assert (await bench.manager.resize(TWICE)).grown


async def test_one_at_a_time_and_a_damaged_state(bench: Bench) -> None:
    await attached(bench, "data")
    locks = bench.base / "run" / "locks"
    (lock,) = [path for path in locks.iterdir() if path.name.startswith("data")]
    async with file_lock(lock, "data", 0):
        with pytest.raises(OperationInProgress):
            await bench.manager.resize("data")
    state = bench.directory("data") / "state.json"
    content = state.read_bytes()
    state.write_text("{")
    with pytest.raises(VolumeError, match="'data' is left as it is: its state file is no JSON"):
        await bench.manager.resize("data")
    state.write_bytes(content)
    assert os.listdir(bench.base / "run" / "volumes") == ["data"]


async def test_a_lun_that_grew_by_itself_is_still_known(bench: Bench) -> None:
    """Size is part of what tells two disks apart; the state file has the one of the attach."""
    await attached(bench, "a-unit-1")
    await attached(bench, "b-large-unit-1")
    await bench.manager.detach("b-large-unit-1")
    bench.host.content(bench.file("a-unit-1")).size_bytes = 2 * SIZE
    await host_call(lambda: bench.host.loop_follow(bench.file("a-unit-1")))
    with pytest.raises(AlreadyAttached, match="'a-unit-1'"):
        await attached(bench, "b-large-unit-1")
