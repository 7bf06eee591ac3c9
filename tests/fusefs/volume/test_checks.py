# SPDX-License-Identifier: Apache-2.0
"""What a manager refuses, and what it publishes, over a fake host and a real process."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from fusefs.errors import (
    AlreadyAttached,
    BlankNotFormatted,
    CallFailed,
    ContentError,
    FilesystemMismatch,
    InvalidSpec,
    NameInUse,
    NoSuchVolume,
    NotBlank,
    OperationInProgress,
    UnformattedReadOnly,
)
from fusefs.host import Signature
from fusefs.spec import VolumeSpec
from fusefs.volume import checks
from fusefs.volume.state import VolumeState
from fusefs.volume_errors import StateNotUnderstood
from tests.fusefs.volume.bench import Bench

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


async def test_one_address_in_two_networks_may_be_two_units() -> None:
    """Before the login nothing is known; afterwards the units tell, and who says nothing is one."""

    def state(identity: dict[str, Any], **network: str) -> VolumeState:
        spec = VolumeSpec(url="iscsi://192.0.2.7/iqn.2026-11.example:a/1", settings=network)
        return VolumeState(
            spec=spec, phase="attached", boot_id="boot", facts={"identity": identity}
        )

    key = {"key": "naa.1", "block_size": 512}
    here, there = state(key), state({**key, "key": "naa.2"}, network_namespace="there")
    assert checks.same_address_of(here, state(key))
    assert not checks.same_address_of(here, there)
    assert not checks.same_address_of(state(key, network_interface="a"), here)
    assert not checks.same_unit(here, there)
    assert checks.same_unit(here, state(key, network_namespace="there"))
    assert checks.same_unit(here, state({}, network_namespace="there"))


# -- what is refused ----------------------------------------------------------------------------


async def test_what_lies_on_the_lun_decides(bench: Bench) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], type[ContentError]]] = [
        ({}, {}, BlankNotFormatted),
        ({}, {"read_only": True}, UnformattedReadOnly),
        ({"fstype": "xfs"}, {"fstype": "ext4"}, FilesystemMismatch),
        ({"fstype": "xfs"}, {"fstype": "ext4", "format_if_blank": True}, FilesystemMismatch),
        ({"fstype": "vfat"}, {}, FilesystemMismatch),
        ({"first_nonzero": 4096}, {"format_if_blank": True}, NotBlank),
        (
            {"signatures": (Signature("LVM2_member", "raid", 536),)},
            {"format_if_blank": True},
            FilesystemMismatch,
        ),
    ]
    for content, changes, error in cases:
        on_lun = bench.host.content(bench.file("data"))
        on_lun.fstype, on_lun.signatures, on_lun.first_nonzero = "", (), None
        for field, value in content.items():
            setattr(on_lun, field, value)
        with pytest.raises(error):
            await bench.manager.mount(bench.spec(**changes), bench.mountpoint)
        assert "mkfs" not in bench.host.steps
        assert "mount" not in bench.host.steps
        bench.assert_nothing_left()


async def test_a_filesystem_that_is_rarely_read_has_to_be_named(bench: Bench) -> None:
    bench.host.content(bench.file("data")).fstype = "vfat"
    with pytest.raises(FilesystemMismatch, match="one of ext4, xfs, btrfs, ext3, ext2"):
        await bench.manager.mount(bench.spec(), bench.mountpoint)
    await bench.manager.mount(bench.spec(fstype="vfat"), bench.mountpoint)
    assert "mount" in bench.host.steps


async def test_a_directory_that_cannot_be_mounted_on_is_refused_before_the_login(
    bench: Bench,
) -> None:
    bench.format()
    full = bench.base / "full"
    full.mkdir()
    (full / "file").touch()
    for directory, says in [
        (bench.base / "missing", "does not exist"),
        (full, "not empty"),
        (full / "file", "not a directory"),
    ]:
        with pytest.raises(InvalidSpec, match=says):
            await bench.manager.mount(bench.spec(), directory)
    await bench.manager.mount(bench.spec(), bench.mountpoint)
    bench.format("second")
    with pytest.raises(InvalidSpec, match="/dev/loop0 mounted on it"):
        await bench.manager.mount(bench.spec("second"), bench.mountpoint)
    assert len(bench.workers) == 1
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_a_name_in_use_is_refused(bench: Bench) -> None:
    await bench.manager.attach(bench.spec())
    with pytest.raises(NameInUse, match="fstype ''"):
        await bench.manager.attach(bench.spec(fstype="xfs"))
    with pytest.raises(AlreadyAttached):
        await bench.manager.attach(bench.spec())
    await bench.manager.detach("data")
    bench.assert_nothing_left()


async def test_one_lun_is_not_had_twice_whatever_it_is_called(bench: Bench) -> None:
    await bench.manager.attach(bench.spec("a-unit-1"))
    same_url = bench.spec("a-unit-1").url
    with pytest.raises(AlreadyAttached) as by_address:
        await bench.manager.attach(bench.spec("b-unit-1", url=same_url))
    assert by_address.value.other == "a-unit-1"
    assert len(bench.workers) == 1
    with pytest.raises(AlreadyAttached) as by_identity:
        await bench.manager.attach(bench.spec("c-unit-1"))
    assert by_identity.value.other == "a-unit-1"
    assert len(bench.workers) == 2
    await bench.manager.attach(bench.spec("d-unit-2"))
    await bench.manager.detach("a-unit-1")
    await bench.manager.detach("d-unit-2")
    bench.assert_nothing_left()


NEWER = {
    "newer": lambda text: text.replace('"version": 1', '"version": 2, "novel": []'),
    "a field that is not known": lambda text: text.replace('"spec": {', '"spec": {"novel": 1,'),
    "a phase that is not known": lambda text: text.replace('"attached"', '"snapshotting"'),
}


@pytest.mark.parametrize("how", NEWER)
async def test_a_lun_of_newer_code_is_not_had_twice_after_the_way_back(
    bench: Bench, how: str
) -> None:
    await bench.manager.attach(bench.spec())
    file = bench.directory("data") / "state.json"
    file.write_text(NEWER[how](good := file.read_text()))
    with pytest.raises(AlreadyAttached, match="as volume 'data'"):
        await bench.manager.attach(bench.spec("again", url=bench.spec().url))
    await bench.manager.attach(bench.spec("other"))  # what is another LUN goes on
    await bench.manager.detach("other")
    with pytest.raises(StateNotUnderstood, match="run the version that wrote it"):
        await bench.manager.detach("data")
    file.write_text(good)
    await bench.manager.detach("data")
    bench.assert_nothing_left()


async def test_beside_a_volume_whose_lun_nobody_knows_none_is_attached(bench: Bench) -> None:
    await bench.manager.attach(bench.spec())
    file = bench.directory("data") / "state.json"
    file.write_text("{")
    with pytest.raises(StateNotUnderstood, match="umount data --force"):
        await bench.manager.attach(bench.spec("other"))
    await bench.manager.umount("data", force=True)
    await bench.manager.attach(bench.spec("other"))
    await bench.manager.detach("other")
    bench.assert_nothing_left()


async def test_one_lun_may_be_had_twice_read_only(bench: Bench) -> None:
    for name in ("a-unit-1", "b-unit-1"):
        await bench.manager.attach(bench.spec(name, read_only=True))
    with pytest.raises(AlreadyAttached):
        await bench.manager.attach(bench.spec("c-unit-1"))
    for name in ("a-unit-1", "b-unit-1"):
        await bench.manager.detach(name)
    bench.assert_nothing_left()


async def test_of_two_at_once_one_wins(bench: Bench) -> None:
    outcomes: list[str] = []

    async def attach(name: str) -> None:
        try:
            await bench.manager.attach(bench.spec(name))
        except AlreadyAttached:
            outcomes.append("refused")
        else:
            outcomes.append(name)

    async with anyio.create_task_group() as group:
        for name in ("a-unit-1", "b-unit-1", "c-unit-1"):
            group.start_soon(attach, name)
    assert outcomes.count("refused") == 2
    (winner,) = [name for name in outcomes if name != "refused"]
    assert [status.name for status in await bench.manager.status()] == [winner]
    await bench.manager.detach(winner)
    bench.assert_nothing_left()


async def test_a_volume_that_is_worked_on_is_left_alone(bench: Bench) -> None:
    async def watch(step: str) -> None:
        other = bench.another_manager()
        with pytest.raises(OperationInProgress):
            await other.attach(bench.spec("hang"))
        with pytest.raises(OperationInProgress):
            await other.umount("hang", force=True)
        (status,) = await other.status()
        assert status.state == "logging-in"
        scope.cancel()

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:

        def heard(step: str) -> None:
            group.start_soon(watch, step)

        with scope:
            await bench.manager.attach(bench.spec("hang"), None, heard)
    bench.assert_nothing_left()


# -- binds --------------------------------------------------------------------------------------


async def test_publish_and_unpublish(bench: Bench) -> None:
    bench.format()
    await bench.manager.mount(bench.spec(), bench.mountpoint)
    one, two = bench.base / "one", bench.base / "two"
    one.mkdir()
    two.mkdir()
    await bench.manager.publish("data", one)
    await bench.manager.publish("data", two, read_only=True)
    again = await bench.manager.publish("data", two, read_only=True)
    assert [bind.directory for bind in again.binds] == [str(one), str(two)]
    assert bench.host.steps.count("bind") == 2
    with pytest.raises(NameInUse, match="read_only"):
        await bench.manager.publish("data", two)
    await bench.manager.unpublish("data", one)
    await bench.manager.unpublish("data", one)
    with pytest.raises(InvalidSpec, match="umount it"):
        await bench.manager.unpublish("data", bench.mountpoint)
    bench.host.fail_at("bind", CallFailed("mount", "x", 1), after=True)
    with pytest.raises(CallFailed):
        await bench.manager.publish("data", one)
    (status,) = await bench.manager.status()
    assert (status.state, [b.directory for b in status.binds]) == ("mounted", [str(two)])
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_publish_needs_a_mounted_volume(bench: Bench) -> None:
    with pytest.raises(NoSuchVolume):
        await bench.manager.publish("data", bench.mountpoint)
    await bench.manager.attach(bench.spec())
    with pytest.raises(InvalidSpec, match="not mounted"):
        await bench.manager.publish("data", bench.mountpoint)
    await bench.manager.detach("data")
    bench.assert_nothing_left()
