# SPDX-License-Identifier: Apache-2.0
"""The verbs that say how things should be, over a fake host: again, otherwise, after a death."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusefs.errors import (
    CallFailed,
    DeviceBusy,
    InvalidSpec,
    MountBusy,
    NameInUse,
    NoSuchVolume,
    ProcessUser,
)
from fusefs.volume import teardown
from fusefs.volume.state import Bind, save_state
from tests.fusefs.volume.bench import Bench

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


async def test_the_same_again_is_the_same(bench: Bench) -> None:
    bench.format()
    first = await bench.manager.ensure_mounted(bench.spec(), bench.mountpoint)
    steps = list(bench.host.steps)
    again = await bench.manager.ensure_mounted(bench.spec(), str(bench.mountpoint) + "/")
    assert (again.loop, again.worker_pid, again.state) == (first.loop, first.worker_pid, "mounted")
    assert bench.host.steps == steps
    assert await bench.manager.ensure_gone("data") is not None
    assert await bench.manager.ensure_gone("data") is None
    bench.assert_nothing_left()


async def test_something_else_is_refused_and_says_what(bench: Bench) -> None:
    bench.format()
    other = bench.base / "other"
    other.mkdir()
    await bench.manager.ensure_mounted(bench.spec(), bench.mountpoint)
    with pytest.raises(NameInUse, match="fstype '', not 'xfs'"):
        await bench.manager.ensure_mounted(bench.spec(fstype="xfs"), bench.mountpoint)
    with pytest.raises(NameInUse, match=f"mounted on {bench.mountpoint}, not {other}"):
        await bench.manager.ensure_mounted(bench.spec(), other)
    with pytest.raises(NameInUse, match="not no directory"):
        await bench.manager.ensure_attached(bench.spec())
    taking_over = bench.spec(take_over=True)  # is said of one attach, not of the volume
    await bench.manager.ensure_mounted(taking_over, bench.mountpoint)
    await bench.manager.ensure_gone("data")


async def test_what_is_dead_is_brought_up_anew(bench: Bench) -> None:
    bench.format()
    await bench.manager.ensure_mounted(bench.spec(), bench.mountpoint)
    await bench.manager.ensure_published("data", bench.base / "bound")
    await bench.kill_workers()
    assert (await bench.manager.get("data")).failed
    status = await bench.manager.ensure_mounted(bench.spec(), bench.mountpoint)
    assert (status.state, status.binds) == ("mounted", ())
    assert not (bench.base / "bound").exists()
    await bench.manager.ensure_gone("data")
    bench.assert_nothing_left()


async def test_what_lost_its_mount_is_brought_up_anew(bench: Bench) -> None:
    bench.format()
    first = await bench.manager.ensure_mounted(bench.spec(), bench.mountpoint)
    bench.host.strict = False
    bench.host.umount(str(bench.mountpoint))
    status = await bench.manager.ensure_mounted(bench.spec(), bench.mountpoint)
    assert status.state == "mounted"
    assert status.worker_pid != first.worker_pid
    await bench.manager.ensure_gone("data")
    bench.assert_nothing_left()


@pytest.mark.parametrize(("policy", "full"), [("never", None), ("preen", False), ("force", True)])
async def test_the_check_is_as_the_spec_says(bench: Bench, policy: str, full: bool | None) -> None:
    bench.format()
    await bench.manager.ensure_mounted(bench.spec(fsck=policy), bench.mountpoint)
    checks = [a.arguments["full"] for a in bench.host.actions if a.name == "fsck"]
    assert checks == ([] if full is None else [full])
    await bench.manager.ensure_gone("data")


# -- further places -------------------------------------------------------------------------------


async def published(bench: Bench, **changes: Any) -> Path:
    spec = bench.spec(block=True, **changes)
    await bench.manager.ensure_attached(spec)
    file = bench.base / "device"
    await bench.manager.publish_device("data", file, read_only=spec.read_only)
    return file


async def test_a_device_is_bound_onto_a_file_and_goes_with_its_volume(bench: Bench) -> None:
    file = await published(bench)
    status = await bench.manager.publish_device("data", file)
    assert status.binds == (Bind(str(file), False, device=True, made=True),)
    assert bench.host.steps.count("bind") == 1
    (entry,) = [entry for entry in bench.host.mounts() if entry.mountpoint == str(file)]
    assert (entry.fstype, entry.root) == ("devtmpfs", "/loop0")
    await bench.manager.ensure_gone("data")
    assert not file.exists()
    bench.assert_nothing_left()


async def test_a_device_is_taken_away_again_and_what_was_there_stays(bench: Bench) -> None:
    file = bench.base / "device"
    file.touch()
    await published(bench)
    await bench.manager.ensure_unpublished("data", file)
    await bench.manager.ensure_unpublished("data", file)
    assert file.exists()
    assert (await bench.manager.get("data")).binds == ()
    await bench.manager.ensure_unpublished("unknown", file)
    await bench.manager.ensure_gone("data")
    bench.assert_nothing_left()


async def test_what_uses_the_device_keeps_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teardown, "NAMESPACE_PATIENCE_S", 0.5)
    file = await published(bench)
    bench.host.users[str(file)] = [ProcessUser(4711, "qemu", "open file")]
    with pytest.raises(MountBusy, match="qemu"):
        await bench.manager.ensure_gone("data")
    assert (await bench.manager.get("data")).state == "attached"
    bench.host.users = {"/dev/loop0": [ProcessUser(4711, "qemu", "open file")]}
    with pytest.raises(DeviceBusy, match="qemu"):
        await bench.manager.ensure_gone("data")
    assert (await bench.manager.get("data")).state == "attached", "the bind was not put back"
    bench.host.users.clear()
    await bench.manager.ensure_gone("data")
    bench.assert_nothing_left()


async def test_a_device_of_a_dead_volume_goes_by_force(bench: Bench) -> None:
    file = await published(bench)
    await bench.kill_workers()
    bench.host.strict = False
    for device in bench.host.loop_list():
        bench.host.loop_detach(device, lazy=True)
    await bench.manager.ensure_gone("data", force=True)
    assert not file.exists()
    bench.assert_nothing_left()


async def test_a_device_read_only_is_a_read_only_volume(bench: Bench) -> None:
    await bench.manager.ensure_attached(bench.spec(block=True))
    with pytest.raises(InvalidSpec, match="keeps nobody from writing"):
        await bench.manager.publish_device("data", bench.base / "device", read_only=True)
    await bench.manager.ensure_gone("data")
    await published(bench, read_only=True)
    await bench.manager.ensure_gone("data")
    bench.assert_nothing_left()


async def test_places_that_cannot_be(bench: Bench) -> None:
    await bench.manager.ensure_attached(bench.spec(block=True))
    full = bench.base / "full"
    full.write_text("here")
    for place, why in (
        (full, "not an empty file"),
        (bench.mountpoint, "not an empty file"),
        (bench.base / "no" / "where", "lies in no directory"),
    ):
        with pytest.raises(InvalidSpec, match=why):
            await bench.manager.publish_device("data", place)
    with pytest.raises(InvalidSpec, match="is not mounted"):
        await bench.manager.ensure_published("data", bench.base / "bound")
    with pytest.raises(InvalidSpec, match="without a filesystem"):
        await bench.manager.ensure_mounted(bench.spec("raw", block=True), bench.mountpoint)
    with pytest.raises(NoSuchVolume):
        await bench.manager.ensure_published("unknown", bench.base / "bound")
    assert (await bench.manager.get("data")).binds == ()
    await bench.manager.ensure_gone("data")
    bench.assert_nothing_left()


async def test_a_place_with_other_rights_is_refused(bench: Bench) -> None:
    bench.format()
    await bench.manager.ensure_mounted(bench.spec(), bench.mountpoint)
    await bench.manager.ensure_published("data", bench.base / "bound", read_only=True)
    with pytest.raises(NameInUse, match="read_only=True"):
        await bench.manager.ensure_published("data", bench.base / "bound")
    await bench.manager.ensure_gone("data")
    bench.assert_nothing_left()


@pytest.mark.parametrize("after", [False, True])
async def test_a_bind_that_fails_leaves_nothing(bench: Bench, after: bool) -> None:
    bench.format()
    await bench.manager.ensure_mounted(bench.spec(), bench.mountpoint)
    bench.host.fail_at("bind", CallFailed("bind", "x", 5), after=after)
    with pytest.raises(CallFailed):
        await bench.manager.ensure_published("data", bench.base / "bound")
    assert not (bench.base / "bound").exists()
    status = await bench.manager.get("data")
    assert (status.state, status.binds) == ("mounted", ())
    await bench.manager.ensure_gone("data")
    bench.assert_nothing_left()


async def test_a_place_that_is_in_use_stays_as_it_was(bench: Bench) -> None:
    bench.format()
    await bench.manager.ensure_mounted(bench.spec(), bench.mountpoint)
    status = await bench.manager.ensure_published("data", bench.base / "bound")
    bench.host.users[str(bench.base / "bound")] = [ProcessUser(4711, "backup", "open file")]
    with pytest.raises(MountBusy, match="backup"):
        await bench.manager.ensure_unpublished("data", bench.base / "bound")
    assert (await bench.manager.get("data")).binds == status.binds
    bench.host.users.clear()
    await bench.manager.ensure_gone("data")
    bench.assert_nothing_left()


@pytest.mark.parametrize("is_bound", [False, True])
async def test_a_bind_that_was_cut_off_is_no_failure_and_is_cleared(
    bench: Bench, is_bound: bool
) -> None:
    bench.format()
    await bench.manager.ensure_mounted(bench.spec(), bench.mountpoint)
    await bench.manager.ensure_published("data", bench.base / "bound")
    state = bench.state("data")
    assert state is not None
    cut_off = Bind(str(bench.base / "bound"), False, made=True, pending=True)
    save_state(bench.directory("data") / "state.json", state.with_(binds=(cut_off,)))
    if not is_bound:
        bench.host.strict = False
        bench.host.umount(cut_off.directory)
        bench.host.strict = True
    assert (await bench.manager.get("data")).state == "mounted"
    assert (await bench.manager.restore()).kept == ["data"]
    assert not (bench.base / "bound").exists()
    assert (await bench.manager.get("data")).binds == ()
    await bench.manager.ensure_gone("data")
    bench.assert_nothing_left()
