# SPDX-License-Identifier: Apache-2.0
"""The ways back over a fake host and a real process: busy, dead workers, absent targets, force."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from fusefs.errors import (
    CallFailed,
    DeviceBusy,
    MountBusy,
    NameInUse,
    NoSuchVolume,
    ProcessUser,
    VolumeError,
    WorkerFailed,
)
from fusefs.volume import teardown
from fusefs.volume.state import PHASES, save_state
from fusefs.volume_errors import VolumeInUse
from tests.fusefs.volume.bench import Bench

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


async def mounted(bench: Bench, name: str = "data", binds: int = 0) -> list[Path]:
    bench.format(name)
    await bench.manager.mount(bench.spec(name), bench.mountpoint)
    directories = [bench.base / f"bind{number}" for number in range(binds)]
    for directory in directories:
        directory.mkdir()
        await bench.manager.publish(name, directory)
    return directories


async def assert_as_it_was(bench: Bench, name: str = "data") -> None:
    status = await bench.manager.get(name)
    assert (status.state, status.last_error) == ("mounted", "")


async def test_a_busy_mount_is_left_as_it_was_and_its_users_are_named(bench: Bench) -> None:
    binds = await mounted(bench, binds=2)
    for directory in (bench.mountpoint, *binds):
        bench.host.users = {str(directory): [ProcessUser(4711, "cat", "open file")]}
        bench.host.actions.clear()
        with pytest.raises(MountBusy, match="cat") as refused:
            await bench.manager.umount("data")
        assert refused.value.pids == (4711,)
        assert bench.host.steps == []
        await assert_as_it_was(bench)
    bench.host.users = {}
    await bench.manager.umount("data")
    bench.assert_nothing_left()


@pytest.mark.parametrize("skip", range(4), ids=["bind2", "bind1", "mount", "loop"])
async def test_a_step_that_is_refused_on_the_way_is_put_back(
    bench: Bench, skip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody opened a file between our look and our umount."""
    monkeypatch.setattr(teardown, "NAMESPACE_PATIENCE_S", 0)
    await mounted(bench, binds=2)
    if skip < 3:
        bench.host.fail_at("umount", MountBusy("x"), skip=skip)
    else:
        bench.host.fail_at("loop_detach", DeviceBusy("x"))
    with pytest.raises(DeviceBusy):
        await bench.manager.umount("data")
    await assert_as_it_was(bench)
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_a_container_that_is_starting_is_waited_for(bench: Bench) -> None:
    """For a moment it has copies of all mounts, so the loop device is busy."""
    await mounted(bench)
    bench.host.fail_at("loop_detach", DeviceBusy("x"))
    bench.host.fail_at("loop_detach", DeviceBusy("x"))
    assert (await bench.manager.umount("data")).clean
    assert bench.host.steps.count("loop_detach") == 3
    bench.assert_nothing_left()


async def test_a_bind_that_is_not_ours_keeps_the_volume(bench: Bench) -> None:
    await mounted(bench)
    theirs = bench.base / "theirs"
    bench.host.strict = False
    bench.host.bind(str(bench.mountpoint), str(theirs))
    with pytest.raises(MountBusy, match="theirs"):
        await bench.manager.umount("data")
    await assert_as_it_was(bench)
    bench.host.umount(str(theirs))
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_data_that_cannot_be_written_out_stops_the_umount(bench: Bench) -> None:
    await mounted(bench)
    bench.host.fail_at("sync", CallFailed("syncfs", "x", 5))
    with pytest.raises(CallFailed, match="syncfs"):
        await bench.manager.umount("data")
    await assert_as_it_was(bench)
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_a_worker_that_refuses_to_stop_can_be_asked_again(bench: Bench) -> None:
    await bench.manager.attach(bench.spec("inuse"))
    with pytest.raises(DeviceBusy, match="it is open"):
        await bench.manager.detach("inuse")
    assert (await bench.manager.get("inuse")).failed
    report = await bench.manager.detach("inuse", force=True)
    assert report.problems == []
    bench.assert_nothing_left()


async def test_without_its_target_a_volume_ends_by_force_only(bench: Bench) -> None:
    await mounted(bench, "away", binds=1)
    assert (await bench.manager.get("away")).state == "recovering"
    bench.host.actions.clear()
    with pytest.raises(WorkerFailed, match="target is away"):
        await bench.manager.umount("away")
    assert bench.host.steps == []
    report = await bench.manager.umount("away", force=True)
    assert report.forced
    assert report.requests_in_flight == 3
    assert not report.clean
    assert all(a.arguments["lazy"] for a in bench.host.actions if a.name == "umount")
    bench.assert_nothing_left()


async def test_a_dead_worker_is_a_failed_volume_that_can_be_taken_down(bench: Bench) -> None:
    await mounted(bench, binds=1)
    await bench.kill_workers()
    status = await bench.manager.get("data")
    assert status.failed
    assert "is dead" in status.last_error
    assert status.worker_pid is None
    with pytest.raises(NameInUse, match="has failed"):
        await bench.manager.mount(bench.spec(), bench.mountpoint)
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_a_volume_of_which_nothing_is_left_is_no_obstacle(bench: Bench) -> None:
    """As after the end of a container, whose run directory stays."""
    await mounted(bench)
    await bench.kill_workers()

    def end_the_rest() -> None:
        for entry in reversed(bench.host.mounts()[1:]):  # all but the root
            bench.host.umount(entry.mountpoint)
        for device in bench.host.loop_list():
            bench.host.loop_detach(device)

    await anyio.to_thread.run_sync(end_the_rest)
    assert (await bench.manager.get("data")).failed
    status = await bench.manager.mount(bench.spec(), bench.mountpoint)
    assert status.state == "mounted"
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_a_worker_that_does_not_answer_is_ended_by_force(bench: Bench) -> None:
    await bench.manager.attach(bench.spec("deaf"))
    status = await bench.manager.get("deaf")
    assert status.state == "recovering"  # who hangs is killed and followed, unless it was by us
    assert "no answer" in status.last_error
    report = await bench.manager.detach("deaf", force=True)
    assert report.requests_in_flight is None
    bench.assert_nothing_left()


@pytest.mark.parametrize("phase", [p for p in PHASES if p not in ("attached", "mounted")])
@pytest.mark.parametrize("way", ["umount", "mount again"])
async def test_what_a_killed_command_left_is_cleared(bench: Bench, phase: str, way: str) -> None:
    """The state file of a command that ended in this phase, over everything it may have made."""
    await mounted(bench, binds=1)
    state = bench.state("data")
    assert state is not None
    save_state(bench.directory("data") / "state.json", state.with_(phase=phase))
    status = await bench.manager.get("data")
    assert status.failed
    assert "did not finish" in status.last_error
    if way == "mount again":
        await bench.manager.mount(bench.spec(), bench.mountpoint)
        await assert_as_it_was(bench)
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_a_state_of_another_boot_touches_nothing_of_this_one(bench: Bench) -> None:
    """Numbers of processes and of loop devices mean others after a reboot."""
    await bench.manager.attach(bench.spec())
    await bench.manager.attach(bench.spec("other"))
    state, other = bench.state("data"), bench.state("other")
    assert state is not None
    assert other is not None
    await bench.manager.detach("data")
    old = state.with_(boot_id="another", worker=other.worker, loop=other.loop, phase="attached")
    bench.directory("data").mkdir()
    save_state(bench.directory("data") / "state.json", old)
    status = await bench.manager.get("data")
    assert status.failed
    assert "before the last boot" in status.last_error
    assert (status.loop, status.worker_pid) == ("", None)
    await bench.manager.detach("data", force=True)
    assert (await bench.manager.get("other")).state == "attached"
    await bench.manager.detach("other")
    bench.assert_nothing_left()


async def test_a_damaged_state_file_is_shown_and_ended_by_force(bench: Bench) -> None:
    await mounted(bench)
    (bench.directory("data") / "state.json").write_text("{")
    (status,) = await bench.manager.status()
    assert (status.name, status.failed) == ("data", True)
    assert "state file is no JSON" in status.last_error
    with pytest.raises(NameInUse, match="state file"):
        await bench.manager.attach(bench.spec())
    with pytest.raises(VolumeError, match="--force"):
        await bench.manager.umount("data")
    report = await bench.manager.umount("data", force=True)
    assert report.problems == []
    assert bench.host.left_behind == []
    assert os.listdir(bench.base / "run" / "volumes") == []


async def test_what_does_not_exist_is_said_not_to(bench: Bench) -> None:
    calls: list[Any] = [
        bench.manager.detach("data"),
        bench.manager.detach("data", force=True),
        bench.manager.umount("data"),
        bench.manager.umount(bench.mountpoint),
        bench.manager.unpublish("data", bench.mountpoint),
        bench.manager.get("data"),
    ]
    for call in calls:
        with pytest.raises(NoSuchVolume):
            await call
    assert await bench.manager.status() == []


async def test_a_mounted_volume_is_not_detached_in_passing(bench: Bench) -> None:
    await mounted(bench)
    with pytest.raises(MountBusy, match="umount"):
        await bench.manager.detach("data")
    await assert_as_it_was(bench)
    await bench.manager.detach("data", force=True)
    bench.assert_nothing_left()


async def test_what_somebody_took_away_makes_it_fail_and_is_not_missed(bench: Bench) -> None:
    await mounted(bench)
    bench.host.strict = False
    bench.host.umount(str(bench.mountpoint))
    assert "not mounted" in (await bench.manager.get("data")).last_error
    (device,) = bench.host.loop_list()
    bench.host.loop_detach(device)
    assert "detached by somebody else" in (await bench.manager.get("data")).last_error
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_an_isid_is_kept_until_the_volume_is_forgotten(bench: Bench) -> None:
    path = bench.base / "state" / "isids" / "data.json"
    await bench.manager.attach(bench.spec())
    first = path.read_text()
    await bench.kill_workers()
    await bench.manager.detach("data", force=True)
    assert path.read_text() == first
    await bench.manager.attach(bench.spec())
    assert path.read_text() == first
    with pytest.raises(VolumeInUse, match="attached"):
        await bench.manager.forget("data")
    await bench.manager.detach("data")
    assert path.read_text() == first
    assert await bench.manager.forget("data")
    assert not path.exists()
    assert not await bench.manager.forget("data")
    bench.assert_nothing_left()
