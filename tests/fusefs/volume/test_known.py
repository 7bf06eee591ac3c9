# SPDX-License-Identifier: Apache-2.0
"""Volumes known by name and their users, over a fake host: counts, ends, deaths, restarts."""

from __future__ import annotations

import json
import os
import stat

import anyio
import pytest

from fusefs.errors import (
    HasFilesystemErrors,
    InvalidSpec,
    MountBusy,
    NameInUse,
    NoSuchVolume,
    OperationInProgress,
    ProcessUser,
    VolumeError,
)
from fusefs.volume.known import KnownVolumes
from fusefs.volume.locks import file_lock
from fusefs.volume.state import VolumeState, save_state
from fusefs.volume_errors import VolumeInUse
from tests.fusefs.volume.bench import Bench
from tests.support.logs import ExpectLogs

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


@pytest.fixture
def known(bench: Bench) -> KnownVolumes:
    return KnownVolumes(bench.manager, patience_s=0)


def after_a_restart(bench: Bench) -> KnownVolumes:
    return KnownVolumes(bench.another_manager(), patience_s=0)


async def defined(known: KnownVolumes, bench: Bench, name: str = "data", **changes: object) -> None:
    await known.define(bench.spec(name, **changes), owner="test")
    bench.format(name)


def mounted(bench: Bench, name: str = "data") -> list[str]:
    place = str(bench.base / "state" / "mounts" / name)
    return [entry.fstype for entry in bench.host.mounts() if entry.mountpoint == place]


# -- definitions ----------------------------------------------------------------------------------


async def test_a_definition_is_durable_and_the_same_again_changes_nothing(
    known: KnownVolumes, bench: Bench
) -> None:
    spec = bench.spec(chap_user="me", chap_secret_file="/etc/secret", fsck="force")
    first = await known.define(spec, owner="test", labels={"a": "b"})
    assert await known.define(spec, owner="other") == first
    (found,) = await after_a_restart(bench).list()
    assert found.definition == first
    assert (found.status, found.users, found.mountpoint) == (None, {}, "")
    file = bench.base / "state" / "volumes" / "data.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(NameInUse, match="fsck 'force', not 'never'"):
        await known.define(bench.spec(fsck="never"), owner="test")
    with pytest.raises(InvalidSpec, match="no directory"):
        await known.define(bench.spec("raw", block=True), owner="test")


async def test_who_defines_it_again_says_anew_whether_it_takes_over(
    known: KnownVolumes, bench: Bench
) -> None:
    """One that would go on taking over after it was told not to would be fenced by nobody."""
    first = await known.define(bench.spec(), owner="test", labels={"a": "b"})
    for wanted in (True, False):
        again = await known.define(bench.spec(take_over=wanted), owner="other")
        assert again.spec.take_over is wanted
        assert (await after_a_restart(bench).get("data")).definition == again
    assert again == first


async def test_what_is_not_known_is_said_or_forgiven(known: KnownVolumes) -> None:
    with pytest.raises(NoSuchVolume):
        await known.get("nothing")
    with pytest.raises(NoSuchVolume):
        await known.use("nothing", "one")
    await known.remove("nothing")
    await known.release("nothing", "one")
    assert await known.forget_users("nothing", set()) == ()
    assert not await known.forget("nothing")
    assert await known.list() == []


async def test_a_definition_that_is_damaged_or_of_newer_code_hides_no_other(
    known: KnownVolumes, bench: Bench, expect_logs: ExpectLogs
) -> None:
    expect_logs("cannot be used")
    await defined(known, bench, "good")
    (bench.base / "state" / "volumes" / "bad.json").write_text("{")
    assert [each.name for each in await known.list()] == ["good"]
    assert set(await known.unusable()) == {"bad"}
    with pytest.raises(VolumeError, match=r"version that wrote it; .*forget bad"):
        await known.get("bad")
    assert await known.forget("bad", definition=True)
    assert await known.unusable() == {}


# -- users ----------------------------------------------------------------------------------------


async def test_the_first_use_brings_it_up_and_the_last_release_takes_it_down(
    known: KnownVolumes, bench: Bench
) -> None:
    await defined(known, bench)
    path = await known.use("data", "one")
    assert path == bench.base / "state" / "mounts" / "data"
    assert mounted(bench) == ["ext4"]
    assert await known.use("data", "two") == path
    assert len(bench.workers) == 1
    await known.release("data", "one")
    assert mounted(bench) == ["ext4"]
    found = await known.get("data")
    assert (found.users, found.mountpoint) == ({"two": 1}, str(path))
    await known.release("data", "two")
    assert not path.exists()
    assert (await known.get("data")).mountpoint == ""
    bench.assert_nothing_left()


async def test_a_user_that_comes_twice_has_to_go_twice(known: KnownVolumes, bench: Bench) -> None:
    """As with `docker cp`, which mounts and unmounts under the id of the running container."""
    await defined(known, bench)
    await known.use("data", "one")
    await known.use("data", "one")
    await known.release("data", "one")
    assert (await known.get("data")).users == {"one": 1}
    assert mounted(bench) == ["ext4"]
    await known.release("data", "one")
    await known.release("data", "one")
    bench.assert_nothing_left()


async def test_a_use_that_fails_is_not_counted_and_leaves_nothing(
    known: KnownVolumes, bench: Bench
) -> None:
    """Nobody releases what was never given."""
    await defined(known, bench)
    error = HasFilesystemErrors("/dev/loop0", "ext4", exit_status=4)
    bench.host.content(bench.file("data")).fsck = error
    with pytest.raises(HasFilesystemErrors):
        await known.use("data", "one")
    assert (await known.get("data")).users == {}
    assert not known.mountpoint("data").exists()
    bench.assert_nothing_left()


async def test_a_volume_in_use_is_not_removed(known: KnownVolumes, bench: Bench) -> None:
    await defined(known, bench)
    await known.use("data", "one")
    for refused in (known.remove, known.forget):
        with pytest.raises(VolumeInUse, match="one") as caught:
            await refused("data")
        assert caught.value.users == ("one",)
    await known.release("data", "one")
    await known.remove("data")
    assert await known.list() == []
    bench.assert_nothing_left()
    left = [str(p) for p in (bench.base / "state").rglob("*.json")]
    assert left == []


async def test_a_release_that_is_refused_is_final_and_the_next_one_goes_on(
    known: KnownVolumes, bench: Bench, expect_logs: ExpectLogs
) -> None:
    """Whoever released does not come again, so it is gone; the volume stays until it can go."""
    expect_logs("restore: volume data: .*backup")
    await defined(known, bench)
    path = str(await known.use("data", "one"))
    bench.host.users[path] = [ProcessUser(4711, "backup", "open file")]
    with pytest.raises(MountBusy, match="backup"):
        await known.release("data", "one")
    assert (await known.get("data")).users == {}
    assert mounted(bench) == ["ext4"]
    report = await after_a_restart(bench).restore()
    assert "backup" in report.problems[0]
    del bench.host.users[path]
    assert (await after_a_restart(bench).restore()).cleared == ["data"]
    bench.assert_nothing_left()


async def test_users_that_are_gone_are_forgotten(known: KnownVolumes, bench: Bench) -> None:
    await defined(known, bench)
    for user in ("one", "two", "two"):
        await known.use("data", user)
    assert await known.forget_users("data", {"two", "three"}) == ("one",)
    assert (await known.get("data")).users == {"two": 2}
    assert await known.forget_users("data", set()) == ("two",)
    bench.assert_nothing_left()


async def test_the_same_name_attached_by_a_command_is_left_alone(
    known: KnownVolumes, bench: Bench
) -> None:
    await defined(known, bench)
    await bench.manager.mount(bench.spec(), bench.mountpoint)
    with pytest.raises(NameInUse, match="mounted on"):
        await known.use("data", "one")
    await known.release("data", "one")
    with pytest.raises(VolumeInUse, match="a command has it"):
        await known.remove("data")
    assert (await known.restore()).kept == ["data"]
    assert (await bench.manager.get("data")).state == "mounted"
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_a_command_that_is_bringing_the_same_name_up_is_left_alone(
    known: KnownVolumes, bench: Bench
) -> None:
    """While it works nobody can see where it will mount; nobody's release waits for it and then
    takes down what it has just made."""
    await defined(known, bench)
    await bench.manager.mount(bench.spec(), bench.mountpoint)
    done = bench.state("data")
    assert done is not None
    file = bench.directory("data") / "state.json"
    patient = KnownVolumes(bench.another_manager(lock_timeout_s=20))
    lock = bench.manager.directories.lock("data")
    async with anyio.create_task_group() as group, file_lock(lock, "data", 0):
        save_state(file, done.with_(phase="attaching", mountpoint=""))
        group.start_soon(patient.release, "data", "nobody")
        await anyio.sleep(0.2)
        save_state(file, done)
    assert (await bench.manager.get("data")).state == "mounted"
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_one_call_at_a_time_on_a_volume(known: KnownVolumes, bench: Bench) -> None:
    await defined(known, bench)
    async with file_lock(bench.manager.directories.uses_lock("data"), "data", 0):
        with pytest.raises(OperationInProgress):
            await known.use("data", "one")
        assert (await known.restore()).busy == ["data"]


async def test_ten_uses_and_releases_at_once(bench: Bench) -> None:
    known = KnownVolumes(bench.manager)
    await defined(known, bench)
    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(known.use, "data", f"user{number % 3}")
    assert (await known.get("data")).users == {"user0": 4, "user1": 3, "user2": 3}
    assert len(bench.workers) == 1
    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(known.release, "data", f"user{number % 3}")
    bench.assert_nothing_left()


# -- after a restart ------------------------------------------------------------------------------


async def test_counts_outlive_the_process(known: KnownVolumes, bench: Bench) -> None:
    await defined(known, bench)
    await known.use("data", "one")
    another = after_a_restart(bench)
    assert (await another.restore()).kept == ["data"]
    assert (await another.get("data")).users == {"one": 1}
    await another.use("data", "one")
    await known.release("data", "one")
    assert mounted(bench) == ["ext4"]
    await known.release("data", "one")
    bench.assert_nothing_left()


async def test_what_is_dead_keeps_its_users_and_the_next_use_brings_it_up_anew(
    known: KnownVolumes, bench: Bench
) -> None:
    await defined(known, bench)
    await known.use("data", "one")
    await bench.kill_workers()
    another = after_a_restart(bench)
    report = await another.restore()
    assert list(report.failed) == ["data"]
    found = await another.get("data")
    assert found.users == {"one": 1}
    assert found.status is not None
    assert found.status.failed
    await another.use("data", "two")
    assert mounted(bench) == ["ext4"]
    assert (await another.get("data")).users == {"one": 1, "two": 1}
    await another.release("data", "one")
    assert mounted(bench) == ["ext4"]
    await another.release("data", "two")
    bench.assert_nothing_left()


async def test_what_is_dead_and_has_no_users_is_cleared(known: KnownVolumes, bench: Bench) -> None:
    await defined(known, bench)
    await known.use("data", "one")
    await bench.kill_workers()
    (bench.base / "run" / "uses" / "data.json").unlink()
    report = await after_a_restart(bench).restore()
    assert (report.cleared, report.failed) == (["data"], {})
    bench.assert_nothing_left()


async def test_counts_of_another_boot_are_worth_nothing(known: KnownVolumes, bench: Bench) -> None:
    await defined(known, bench)
    await known.use("data", "one")
    await bench.kill_workers()
    uses = bench.base / "run" / "uses" / "data.json"
    values = json.loads(uses.read_text())
    uses.write_text(json.dumps(values | {"boot_id": "another"}))
    state = bench.state("data")
    assert state is not None
    save_state(bench.directory("data") / "state.json", state.with_(boot_id="another"))
    another = after_a_restart(bench)
    assert (await another.restore()).cleared == ["data"]
    assert (await another.get("data")).users == {}
    assert not uses.exists()
    bench.assert_nothing_left()
    await another.use("data", "one")
    await another.release("data", "one")
    bench.assert_nothing_left()


async def test_a_start_clears_pieces_of_which_no_volume_is_left(
    known: KnownVolumes, bench: Bench
) -> None:
    await defined(known, bench)
    await known.use("data", "one")
    written = [path.parent for path in bench.base.rglob("*.json") if path.name != "state.json"]
    await known.release("data", "one")
    bench.host.strict = False
    (bench.base / "run" / "volumes" / "empty" / "fuse").mkdir(parents=True)
    bench.host.fuse_mount(-1, str(bench.directory("gone") / "fuse"), source="pyscsi-init:gone")
    device = bench.host.loop_attach(bench.file("gone"), block_size=512)
    bench.host.content(bench.file("gone")).fstype = "ext4"
    bench.host.mount(device.path, str(bench.mountpoint), "ext4")
    temporaries = [directory / ".data.json.999999999.new" for directory in written]
    for path in temporaries:
        path.touch()  # as writers leave it that die over their files
    (bench.base / "state" / "mounts" / "data").mkdir()
    bench.host.strict = True
    report = await after_a_restart(bench).restore()
    assert (report.cleared, report.problems) == (["empty"], [])
    assert {path.parent.name for path in temporaries} >= {"uses", "isids", "attached"}
    assert not [path for path in temporaries if path.exists()]
    assert os.listdir(bench.base / "state" / "mounts") == []
    bench.assert_nothing_left()


async def test_a_start_leaves_the_devices_of_other_namespaces_alone(
    known: KnownVolumes, bench: Bench
) -> None:
    """A container that mounts volumes for itself has the same paths, and its devices are seen from
    here; its mounts are not."""
    bench.host.strict = False
    device = bench.host.loop_attach(bench.file("theirs"), block_size=512)
    report = await known.restore()
    assert (report.cleared, report.problems) == ([], [])
    assert bench.host.loop_list() == [device]
    bench.host.loop_detach(device)
    bench.assert_nothing_left()


async def test_a_start_does_not_touch_what_it_cannot_read(
    known: KnownVolumes, bench: Bench
) -> None:
    await defined(known, bench)
    await known.use("data", "one")
    state = bench.directory("data") / "state.json"
    before = state.read_text()
    state.write_text(before.replace('"version": 1', '"version": 99'))
    report = await after_a_restart(bench).restore()
    assert "version 99" in report.failed["data"]
    with pytest.raises(VolumeError, match="version 99"):
        await bench.manager.upgrade("data")
    assert mounted(bench) == ["ext4"]
    state.write_text(before)
    await known.release("data", "one")
    bench.assert_nothing_left()


@pytest.mark.parametrize("phase", ["logging-in", "attaching", "formatting", "mounting"])
async def test_what_was_on_its_way_is_cleared_whoever_wanted_it(
    bench: Bench, known: KnownVolumes, phase: str
) -> None:
    bench.format()
    await bench.manager.mount(bench.spec(), bench.mountpoint)
    state: VolumeState | None = bench.state("data")
    assert state is not None
    save_state(bench.directory("data") / "state.json", state.with_(phase=phase))
    assert (await known.restore()).cleared == ["data"]
    bench.assert_nothing_left()
